#!/bin/sh
# Replaces TMPDIR by a link to a folder that must not be removed.
mkdir "$HOME/precious" && touch "$HOME/precious/file"
rm -rf "$TMPDIR" && ln -s /etc "$TMPDIR"
