#!/usr/bin/env python3
# Kills and stops all other children of its slot.
import os
import signal

parent = os.getppid()
for task in os.listdir(f"/proc/{parent}/task"):
    with open(f"/proc/{parent}/task/{task}/children") as found:
        for pid in map(int, found.read().split()):
            if pid != os.getpid():
                os.kill(pid, signal.SIGSTOP)
                os.kill(pid, signal.SIGKILL)
