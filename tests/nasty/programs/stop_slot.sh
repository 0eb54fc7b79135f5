#!/bin/sh
# Stops whoever runs it.
kill -STOP $PPID
exit 3
