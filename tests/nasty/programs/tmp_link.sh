#!/bin/sh
# Puts a link to something precious in the place of TMPDIR.
mkdir "$HOME/precious" && touch "$HOME/precious/file"
rm -rf "$TMPDIR" && ln -s /etc "$TMPDIR"
