#!/bin/sh
# A background child writes a moment after its parent's end.
(sleep 0.03; echo late) &
echo early
