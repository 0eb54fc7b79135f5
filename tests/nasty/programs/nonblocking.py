#!/usr/bin/env python3
# Makes its output non-blocking, which is also the output of the next test.
import os

assert os.get_blocking(1), "an earlier test left it non-blocking"
os.set_blocking(1, False)
os.set_blocking(2, False)
try:
    while True:
        os.write(1, b"x" * 4096)
except BlockingIOError:
    pass
