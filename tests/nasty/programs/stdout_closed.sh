#!/bin/sh
# Closes its output early and fails later.
exec >&- 2>&-
sleep 0.2
exit 3
