#!/bin/sh
# There must be no terminal to ask for a password.
if (: </dev/tty) 2>/dev/null; then echo "a terminal"; exit 1; fi
