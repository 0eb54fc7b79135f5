#!/usr/bin/env python3
# Leaves a process without environment, descriptors, session or folder of ours.
import os

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        os.closerange(0, 4096)
        os.execve("/bin/sleep", ["kworker/0:1"[:7], "60"], {})
    os._exit(0)
os.wait()
