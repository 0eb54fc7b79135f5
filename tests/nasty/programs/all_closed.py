#!/usr/bin/env python3
# Closes every descriptor and fails later.
import os
import time

os.closerange(0, 4096)
time.sleep(0.1)
os._exit(4)
