#!/bin/sh
# Writes one line of 200 MB.
head -c 200000000 /dev/zero | tr '\0' x
echo "the end"
