#!/bin/sh
# What was wrong once; each line of TAP is a case.
check() {
    got=$(printf "$2" | tally)
    if [ "$got" = "$3" ]; then echo "ok - $1"; else echo "not ok - $1: $got words, not $3"; fi
}
check "blanks between words" 'a  b\tc\n' 3
check "blanks at both ends" '  a b  \n' 2
check "no end of line" 'a b' 2
echo 1..3
