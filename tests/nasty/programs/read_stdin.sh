#!/bin/sh
# Reads standard input to its end.
cat
echo "end of file"
