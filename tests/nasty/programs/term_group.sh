#!/bin/sh
# Terminates its whole process group.
kill -TERM 0
sleep 60
