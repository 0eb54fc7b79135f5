#!/bin/sh
# At the timeout there are processes in four sessions.
setsid sleep 60 &
setsid sh -c 'setsid sleep 61 & setsid sleep 62 & wait' &
sleep 63
