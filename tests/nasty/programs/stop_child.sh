#!/bin/sh
# Leaves a stopped child behind.
sleep 60 &
while [ "$(cat /proc/$!/comm)" != sleep ]; do sleep 0.01; done
kill -STOP $!
