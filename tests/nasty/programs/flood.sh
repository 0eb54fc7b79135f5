#!/bin/sh
# A gigabyte as fast as it goes.
yes 'a line of a chatty program' | head -c 1000000000
echo "the end"
