#!/bin/sh
# nosejobs: timeout=5 tags=smoke,text env=GREETING="good morning"
#
# The comment above is metadata: this test may take 5 seconds, `pytest -m smoke`
# selects it, and it gets a variable of its own.
set -eu

[ "$GREETING" = "good morning" ]
[ "$(echo "$GREETING" | tr a-z A-Z)" = "GOOD MORNING" ]
