#!/bin/sh
# nosejobs: tags=net pass=EXAMPLE_DATABASE
#
# Exit 77 means "skipped"; the last line of output is the reason.  The environment
# of a test is clean: EXAMPLE_DATABASE comes through only because of pass=.
if [ -z "${EXAMPLE_DATABASE:-}" ]; then
    echo "no database: EXAMPLE_DATABASE is not set"
    exit 77
fi
[ -s "$EXAMPLE_DATABASE" ]
