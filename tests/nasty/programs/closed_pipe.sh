#!/bin/sh
# Writes to a pipe that nobody reads: SIGPIPE must not be ignored.
{ yes; echo "yes ended with $?" >&2; } | head -n 1
