#!/usr/bin/env python3
# A daemon as the books have it: two forks and a session of its own.
import os
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        time.sleep(60)
    os._exit(0)
os.wait()
