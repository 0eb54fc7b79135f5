#!/bin/sh
# Ends with the status that its name says.
set -- "$(basename "$0" .sh)"
exit "${1##*_}"
