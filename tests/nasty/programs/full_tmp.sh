#!/bin/sh
# Fills the temporary file system and writes output while it is full.
head -c 64000000 /dev/zero >"$TMPDIR/fill" 2>/dev/null && exit 1
echo "no room left"
