#!/bin/sh
# Writes to a pipe without a reader: SIGPIPE must not be ignored.
{ yes; echo "yes ended with $?" >&2; } | head -n 1
