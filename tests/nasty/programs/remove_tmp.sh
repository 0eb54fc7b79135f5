#!/bin/sh
# Removes TMPDIR, HOME and their parent folder.
rm -rf "${TMPDIR%/*}"
