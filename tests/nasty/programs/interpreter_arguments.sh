#!/bin/sh -eu
# The shebang has arguments: -e and -u.
false
echo "not reached"
