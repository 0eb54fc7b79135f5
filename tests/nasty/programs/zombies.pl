#!/usr/bin/env perl
# Has three hundred children that it never waits for.
for (1 .. 300) { fork or exit }
print "done\n";
