#!/bin/sh
# Puts a file in the place of TMPDIR.
rm -rf "$TMPDIR" && echo >"$TMPDIR"
