#!/bin/sh
# Leaves a stopped child behind.
sleep 60 &
kill -STOP $!
