#!/bin/sh
# Writes to both streams for ever.
yes out &
exec yes err >&2
