#!/bin/sh
# Replaces TMPDIR by a file.
rm -rf "$TMPDIR" && echo >"$TMPDIR"
