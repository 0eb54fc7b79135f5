#!/usr/bin/env python3
# Leaves a daemon: two forks and its own session.
import os
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        time.sleep(60)
    os._exit(0)
os.wait()
