#!/bin/sh
# Sends its parent all signals that can be ignored.
for signal in TERM HUP INT QUIT USR1 USR2 ALRM; do kill -$signal $PPID; done
echo "still here"
