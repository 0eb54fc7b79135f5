#!/bin/sh
# The program is killed while it counts; the next one is none the worse for it.
mkfifo "$TMPDIR/words"
tally <"$TMPDIR/words" &
exec 3>"$TMPDIR/words"
echo "some words" >&3
kill -9 $!
wait $! && exit 1
exec 3>&-
[ "$(echo two words | tally)" = 2 ]
