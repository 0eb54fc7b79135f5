#!/usr/bin/env python3
# Checks that it has only three open descriptors.
import os

found = sorted(map(int, os.listdir("/proc/self/fd")))
print(found)
assert found == [0, 1, 2, 3], found
