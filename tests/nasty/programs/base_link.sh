#!/bin/sh
# Replaces the folder of TMPDIR and HOME by a link to a folder that must not be changed.
for name in tmp home out tree; do mkdir -p "foreign/$name" && touch "foreign/$name/file"; done
base=${TMPDIR%/*} && mv "$base" "$base-moved" && ln -s "$PWD/foreign" "$base"
