#!/usr/bin/env perl
# Three hundred children that nobody waits for.
for (1 .. 300) { fork or exit }
print "done\n";
