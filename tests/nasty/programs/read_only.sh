#!/bin/sh
# Runs in a folder that cannot be written to.
pwd
