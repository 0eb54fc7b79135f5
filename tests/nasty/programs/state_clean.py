#!/usr/bin/env python3
# Checks that nothing is left of what other programs change on their slot or its pipes.
import ctypes
import fcntl
import os
import resource

assert os.sched_getscheduler(0) == os.SCHED_OTHER
assert resource.getrlimit(resource.RLIMIT_STACK)[0] != 1 << 20
with open("/proc/self/oom_score_adj") as file:
    assert file.read() != "900\n"
assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 0
assert ctypes.CDLL(None).syscall(252, 1, 0) != 3 << 13  # ioprio_get(2)
assert fcntl.fcntl(1, 1032) not in (4096, 1 << 20)  # F_GETPIPE_SZ
for descriptor in (1, 2):
    assert fcntl.fcntl(descriptor, fcntl.F_GETSIG) == 0
    assert fcntl.fcntl(descriptor, fcntl.F_GETOWN) == 0
    assert fcntl.fcntl(descriptor, fcntl.F_GETFL) == os.O_WRONLY
