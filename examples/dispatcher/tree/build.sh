#!/bin/sh
# The build command: leaves dist/, with the program and what installs it.
set -eu
mkdir -p dist
cp src/tally.awk src/install.sh dist/
{
    echo '#!/bin/sh'
    echo 'exec awk -f "$(dirname "$0")/../lib/tally.awk" -- "$@"'
} >dist/tally
chmod +x dist/tally
