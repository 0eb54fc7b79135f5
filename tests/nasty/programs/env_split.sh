#!/usr/bin/env -S FRUIT=pear sh
# A shebang of env -S.
test "$FRUIT" = pear
