#!/bin/sh
# Runs under names that are difficult to handle.
echo "my name is no matter"
