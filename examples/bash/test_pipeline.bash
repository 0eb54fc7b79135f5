#!/usr/bin/env bash
# nosejobs: tags=smoke
# A pipeline fails with its last command only, unless pipefail is set.
set -u

false | true || { echo "without pipefail the last command decides"; exit 1; }

set -o pipefail
if false | true; then
    echo "pipefail did not see the first command fail"
    exit 1
fi

false | true | false
states=("${PIPESTATUS[@]}")
[[ ${states[*]} == "1 0 1" ]]
