#!/bin/sh
# Exits with the status in its name.
set -- "$(basename "$0" .sh)"
exit "${1##*_}"
