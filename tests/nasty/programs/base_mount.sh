#!/bin/sh
# Mounts a folder that must not be changed on the folder of TMPDIR and HOME.
for name in tmp home out tree; do mkdir -p "foreign/$name" && touch "foreign/$name/file"; done
mount --bind foreign "${TMPDIR%/*}"
