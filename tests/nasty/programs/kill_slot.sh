#!/bin/sh
# Kills its parent, the slot, and continues to run.
kill -9 $PPID
sleep 60
