#!/usr/bin/env python3
# Writes garbage to the control socket of its slot, which is a whole message by its length.
import ctypes
import os
import stat
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
pidfd = libc.syscall(434, os.getppid(), 0)  # pidfd_open(2)
for number in range(3, 64):
    descriptor = libc.syscall(438, pidfd, number, 0)  # pidfd_getfd(2)
    if descriptor >= 0 and stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        if os.path.basename(sys.argv[0]) == "test_huge_frame":
            os.write(descriptor, b"\xff\xff\xff\xff" + bytes(1000))
        else:
            os.write(descriptor, b"\0\0\0\x05hello")
        time.sleep(60)
sys.exit(77)
