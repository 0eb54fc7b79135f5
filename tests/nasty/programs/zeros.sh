#!/bin/sh
# Writes ten megabytes of NUL and fails.
head -c 10000000 /dev/zero
echo "the end"
exit 1
