#!/usr/bin/env python3
# Leaves a daemon that ignores SIGINT and starts a copy of itself on SIGTERM.
import os
import signal
import time


def again(*_: object) -> None:
    if os.fork() == 0:
        os.setsid()
    else:
        os._exit(0)


signal.signal(signal.SIGTERM, again)
signal.signal(signal.SIGINT, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    while True:
        time.sleep(0.01)
