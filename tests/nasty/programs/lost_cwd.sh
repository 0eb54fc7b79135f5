#!/bin/sh
# Removes its working directory.
mkdir "$TMPDIR/gone" && cd "$TMPDIR/gone" && rmdir "$TMPDIR/gone"
echo "nowhere"
