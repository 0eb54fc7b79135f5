#!/usr/bin/env perl
# Has three hundred children that it never waits for, and runs until it is stopped.
for (1 .. 300) { fork or exit }
sleep 60;
