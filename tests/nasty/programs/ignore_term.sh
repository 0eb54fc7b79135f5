#!/bin/sh
# Ignores SIGTERM, and so do its children.
trap '' TERM
while :; do sleep 1; done
