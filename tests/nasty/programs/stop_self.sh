#!/bin/sh
# Stops itself.
kill -STOP $$
