#!/bin/sh
# Checks that the files are there that base_link.sh and home_swap.py have put where links led.
for name in tmp/file home/file out/file tree/file home/a home/b; do
    test -e "foreign/$name" || exit 1
done
