#!/usr/bin/env python3
# Has three descriptors open, and the one that lists them.
import os

found = sorted(map(int, os.listdir("/proc/self/fd")))
print(found)
assert found == [0, 1, 2, 3], found
