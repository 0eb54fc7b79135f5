#!/bin/sh
# Ten megabytes of NUL, and a failure.
head -c 10000000 /dev/zero
echo "the end"
exit 1
