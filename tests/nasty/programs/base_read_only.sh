#!/bin/sh
# Makes the folder of TMPDIR and HOME read-only by a mount on itself.
base=${TMPDIR%/*} && mount --bind "$base" "$base" && mount -o remount,ro,bind "$base"
