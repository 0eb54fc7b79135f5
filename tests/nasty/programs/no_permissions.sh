#!/bin/sh
# Leaves folders without any permission that contain files.
mkdir -p "$TMPDIR/a/b/c" && touch "$TMPDIR/a/file" "$TMPDIR/a/b/file" "$TMPDIR/a/b/c/file"
chmod 000 "$TMPDIR/a/b/c" "$TMPDIR/a/b" "$TMPDIR/a" "$TMPDIR"
