#!/usr/bin/env -S FRUIT=pear sh
# Has a shebang with env -S.
test "$FRUIT" = pear
