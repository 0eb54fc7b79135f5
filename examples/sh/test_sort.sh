#!/bin/sh
# sort(1) compares numbers as numbers only when it is told to.
set -eu

by_text=$(printf '10\n9\n2\n' | LC_ALL=C sort | tr '\n' ' ')
by_number=$(printf '10\n9\n2\n' | sort -n | tr '\n' ' ')

echo "by text:   $by_text"
echo "by number: $by_number"
[ "$by_text" = "10 2 9 " ]
[ "$by_number" = "2 9 10 " ]
