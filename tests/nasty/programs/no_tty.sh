#!/bin/sh
# Checks that no terminal can be opened, for example to ask for a password.
if (: </dev/tty) 2>/dev/null; then echo "a terminal"; exit 1; fi
