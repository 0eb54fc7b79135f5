#!/bin/sh
# Writes more than its file size limit.
ulimit -f 1
exec head -c 1000000 /dev/zero >"$TMPDIR/file"
