#!/bin/sh
[ "$(tally </dev/null)" = 0 ]
