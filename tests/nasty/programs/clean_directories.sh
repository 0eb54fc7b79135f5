#!/bin/sh
# Checks that TMPDIR and HOME are private, empty and writable directories.
set -e
for folder in "$TMPDIR" "$HOME"; do
    test ! -L "$folder" && test -O "$folder"
    test "$(stat -c %a "$folder")" = 700
    test -z "$(ls -A "$folder")"
    echo >"$folder/file" && rm "$folder/file"
done
