#!/bin/sh
# Stops its whole process group, including a child.
sleep 60 &
kill -STOP 0
