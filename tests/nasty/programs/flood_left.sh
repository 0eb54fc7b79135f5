#!/bin/sh
# Leaves a process that writes forever.
yes &
