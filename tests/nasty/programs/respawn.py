#!/usr/bin/env python3
# A daemon that ignores SIGINT and answers SIGTERM with a new one of itself.
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
