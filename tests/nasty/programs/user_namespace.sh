#!/bin/sh
# Leaves a process that is root in its own user namespace.
unshare --user --map-root-user sh -c 'setsid sleep 60' &
sleep 0.1
