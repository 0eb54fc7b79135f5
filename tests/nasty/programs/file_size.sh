#!/bin/sh
# Writes more than it may.
ulimit -f 1
exec head -c 1000000 /dev/zero >"$TMPDIR/file"
