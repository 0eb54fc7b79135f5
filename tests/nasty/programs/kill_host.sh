#!/bin/sh
# Kills the parent of whoever runs it.
set -- $(sed 's/.*) //' /proc/$PPID/stat)
kill -9 $2
sleep 60
