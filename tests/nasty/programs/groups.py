#!/usr/bin/env python3
# Has children that move between process groups when the timeout is over.
import os
import time

pids = []
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(0.001)
            try:
                os.setpgid(0, 0)
                os.setpgid(0, os.getppid())
            except OSError:
                pass
    pids.append(pid)
time.sleep(60)
