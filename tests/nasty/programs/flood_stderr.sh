#!/bin/sh
# Writes to both streams forever.
yes out &
exec yes err >&2
