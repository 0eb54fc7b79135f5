#!/bin/sh
# Leaves a mount in TMPDIR that is reached by a link in HOME, and one on top of it.
mkdir "$TMPDIR/here" && ln -s "$TMPDIR/here" "$HOME/there" || exit 77
mount --bind . "$HOME/there" && mount -t tmpfs none "$TMPDIR/here"
