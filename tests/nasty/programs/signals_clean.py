#!/usr/bin/env python3
# Checks that it starts with no signal ignored or blocked.
import signal

assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
with open("/proc/self/status") as lines:
    ignored = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
# Python ignores SIGPIPE and SIGXFSZ itself; 32 and 33 are the C library's own.
others = {signal.SIGPIPE, signal.SIGXFSZ, 32, 33}
assert not ignored & ~sum(1 << (number - 1) for number in others), hex(ignored)
