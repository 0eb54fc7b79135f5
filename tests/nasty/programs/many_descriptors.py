#!/usr/bin/env python3
# Leaves a child with thousands of open descriptors.
import os
import resource
import time

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 6000), hard))
read, _ = os.pipe()
try:
    while True:
        os.dup(read)
except OSError:
    pass
if os.fork() == 0:
    time.sleep(60)
