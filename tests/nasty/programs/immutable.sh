#!/bin/sh
# Makes the files that it leaves in TMPDIR immutable.
mkdir -p "$TMPDIR/a/b" && touch "$TMPDIR/a/b/file" && cd "$TMPDIR/a/b"
chattr +i file . .. || exit 77
