#!/bin/sh
# Has processes in four sessions when the timeout is over.
setsid sleep 60 &
setsid sh -c 'setsid sleep 61 & setsid sleep 62 & wait' &
sleep 63
