#!/bin/sh
# Leaves a process in a PID namespace of its own.
unshare --pid --fork sh -c 'trap "" TERM; sleep 60' &
sleep 0.1
