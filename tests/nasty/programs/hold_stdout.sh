#!/bin/sh
# Leaves a background child that keeps standard output open.
sleep 60 &
echo started
