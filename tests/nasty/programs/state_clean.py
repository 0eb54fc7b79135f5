#!/usr/bin/env python3
# Checks that nothing is left of what slot_state.py and pipe_signal.py change.
import fcntl
import os
import resource

assert os.sched_getscheduler(0) == os.SCHED_OTHER
assert resource.getrlimit(resource.RLIMIT_STACK)[0] != 1 << 20
with open("/proc/self/oom_score_adj") as file:
    assert file.read() != "900\n"
for descriptor in (1, 2):
    assert fcntl.fcntl(descriptor, fcntl.F_GETSIG) == 0
    assert fcntl.fcntl(descriptor, fcntl.F_GETOWN) == 0
    assert fcntl.fcntl(descriptor, fcntl.F_GETFL) == os.O_WRONLY
