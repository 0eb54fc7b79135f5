#!/bin/sh
# Asks whoever runs it to end, in all ways that can be refused.
for signal in TERM HUP INT QUIT USR1 USR2 ALRM; do kill -$signal $PPID; done
echo "still here"
