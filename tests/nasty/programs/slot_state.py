#!/usr/bin/env python3
# Changes what its parent passes on to the next test: priority, processors, memory, scheduler.
import os
import resource

slot = os.getppid()
os.setpriority(os.PRIO_PROCESS, slot, min(os.getpriority(os.PRIO_PROCESS, slot) + 3, 19))
os.sched_setaffinity(slot, {min(os.sched_getaffinity(slot))})
os.sched_setscheduler(slot, os.SCHED_BATCH, os.sched_param(0))
resource.prlimit(slot, resource.RLIMIT_STACK, (1 << 20, 1 << 20))
with open(f"/proc/{slot}/oom_score_adj", "w") as file:
    file.write("900")
