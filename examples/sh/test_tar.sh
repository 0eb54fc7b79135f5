#!/bin/sh
# A tree goes through tar(1) and back: contents, modes and links stay.
set -eu
. ./check.sh          # a test starts in its own directory

cd "$TMPDIR"          # private, and removed afterwards
mkdir -p from/folder to
echo "some text" >from/folder/file
chmod 640 from/folder/file
ln -s folder/file from/link

tar -C from -cf - . | tar -C to -xpf -

same "$(cat to/link)" "some text"
same "$(readlink to/link)" "folder/file"
same "$(ls -l to/folder/file | cut -c1-10)" "-rw-r-----"
