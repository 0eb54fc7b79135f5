#!/bin/sh
# Has a background child that writes shortly after the parent has exited.
(sleep 0.03; echo late) &
echo early
