#!/bin/sh
# Ignores SIGTERM, as do its children.
trap '' TERM
while :; do sleep 1; done
