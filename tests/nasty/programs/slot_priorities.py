#!/usr/bin/env python3
# Changes more of what its parent passes on: I/O priority and other limits.
import ctypes
import os
import resource

slot = os.getppid()
ctypes.CDLL(None).syscall(251, 1, slot, 3 << 13)  # ioprio_set(2): idle
for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_MEMLOCK):
    hard = resource.prlimit(slot, limit)[1]
    resource.prlimit(slot, limit, (0, hard))
