#!/bin/sh
# Stops its parent.
kill -STOP $PPID
exit 3
