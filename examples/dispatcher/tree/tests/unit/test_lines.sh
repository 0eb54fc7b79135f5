#!/bin/sh
found=$(printf 'one\ntwo three\n\n' | tally)
[ "$found" = 3 ] || { echo "3 words, and tally says $found"; exit 1; }
