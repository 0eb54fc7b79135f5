#!/bin/sh
# Runs in a folder that is not writable.
pwd
