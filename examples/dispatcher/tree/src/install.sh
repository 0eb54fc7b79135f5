#!/bin/sh
# Runs in the folder of the build, before the tests of a stage.
set -eu
mkdir -p "$NOSEJOBS_PREFIX/bin" "$NOSEJOBS_PREFIX/lib"
cp tally "$NOSEJOBS_PREFIX/bin/"
cp tally.awk "$NOSEJOBS_PREFIX/lib/"
