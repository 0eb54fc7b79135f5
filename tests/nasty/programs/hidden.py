#!/usr/bin/env python3
# Leaves a process that shares no environment, descriptor, session or folder with the test.
import os

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        marker = os.environ.get("NASTY_MARKER", "")
        os.chdir("/")
        os.closerange(0, 4096)
        os.execve("/bin/sh", ["kworker", "-c", "sleep 60; exit", marker], {})
    os._exit(0)
os.wait()
