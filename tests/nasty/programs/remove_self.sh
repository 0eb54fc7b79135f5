#!/bin/sh
# Removes itself and its folder.
rm "$0"
cd .. && rmdir alone
