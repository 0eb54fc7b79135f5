#!/bin/sh
# Waits for ever behind a line without an end.
printf 'waiting for the database'
sleep 60
