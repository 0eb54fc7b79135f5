#!/bin/sh
# Leaves a stopped child behind.
sleep 60 &
sleep 0.05
kill -STOP $!
