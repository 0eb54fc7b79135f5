#!/usr/bin/env python3
# Writes many packets to a larger pipe while its parent is stopped: all are its own output.
import fcntl
import os
import signal

fcntl.fcntl(1, 1031, 1 << 20)  # F_SETPIPE_SZ
fcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY | os.O_DIRECT)
os.kill(os.getppid(), signal.SIGSTOP)
for number in range(190):
    os.write(1, b"line %d\n" % number)
os.write(1, b"the end\n")
os.kill(os.getppid(), signal.SIGCONT)
