#!/usr/bin/env python3
# Makes the pipe of its output as small as possible, non-blocking and in packets.
import fcntl
import os

fcntl.fcntl(1, 1031, 4096)  # F_SETPIPE_SZ
for descriptor in (1, 2):
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_WRONLY | os.O_NONBLOCK | os.O_DIRECT)
