#!/bin/sh
# A background child holds standard output open for longer than anybody waits.
sleep 60 &
echo started
