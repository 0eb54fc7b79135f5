#!/bin/sh
# Removes TMPDIR and HOME, and what they are in.
rm -rf "${TMPDIR%/*}"
