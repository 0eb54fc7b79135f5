#!/usr/bin/env perl
# The same, and their parent stays until it is stopped.
for (1 .. 300) { fork or exit }
sleep 60;
