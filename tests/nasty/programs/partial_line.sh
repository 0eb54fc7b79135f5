#!/bin/sh
# Waits forever after output without a line end.
printf 'waiting for the database'
sleep 60
