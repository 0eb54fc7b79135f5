#!/bin/sh
# Writes forever: the timeout must hold.
exec yes
