#!/usr/bin/env python3
# Lets its output send SIGKILL to its parent, once the next test writes.
import fcntl
import os
import signal

fcntl.fcntl(1, fcntl.F_SETOWN, os.getppid())
fcntl.fcntl(1, fcntl.F_SETSIG, signal.SIGKILL)
fcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY | os.O_ASYNC)
