#!/bin/sh
# Stops its whole group, a child included.
sleep 60 &
kill -STOP 0
