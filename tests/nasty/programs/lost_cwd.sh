#!/bin/sh
# Goes away, and removes the ground under its feet.
mkdir "$TMPDIR/gone" && cd "$TMPDIR/gone" && rmdir "$TMPDIR/gone"
echo "nowhere"
