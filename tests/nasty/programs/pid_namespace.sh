#!/bin/sh
# Leaves a process in its own PID namespace.
unshare --pid --fork sh -c 'trap "" TERM; sleep 60' &
sleep 0.1
