#!/bin/sh
# Leaves a recursive bind of the root, whose mounts are shared with the original.
mount --make-rshared / && mkdir "$TMPDIR/root" && mount --rbind / "$TMPDIR/root"
