#!/bin/sh
# Writes a gigabyte as fast as possible.
yes 'a line of a chatty program' | head -c 1000000000
echo "the end"
