#!/usr/bin/env python3
# Writes garbage to the control socket of its slot; its own name says which.
import ctypes
import os
import stat
import sys
import time

FRAMES = {
    "test_garbage_frame": b"\0\0\0\x05hello",
    "test_huge_frame": b"\xff\xff\xff\xff" + bytes(1000),
    "test_empty_frame": b"\0\0\0\0",
    "test_binary_frame": b"\0\0\0\x08" + bytes(range(248, 256)),
    "test_partial_frame": b"\0\0\0\x20[",
    "test_nested_frame": b"\0\1\x86\xa0" + b"[" * 100_000,
    "test_retired_frame": b'\0\0\0\x0b["retired"]',
    "test_other_frame": b'\0\0\0\x16["line", 999999, "x"]\n',
}

libc = ctypes.CDLL(None, use_errno=True)
pidfd = libc.syscall(434, os.getppid(), 0)  # pidfd_open(2)
for number in range(3, 64):
    descriptor = libc.syscall(438, pidfd, number, 0)  # pidfd_getfd(2)
    if descriptor >= 0 and stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        os.write(descriptor, FRAMES[os.path.basename(sys.argv[0])])
        time.sleep(60)
sys.exit(77)
