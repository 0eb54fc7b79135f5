#!/usr/bin/env python3
# Checks that standard output is blocking again after another test.
import os

assert os.get_blocking(1)
assert os.get_blocking(2)
os.write(1, b"x" * 1_000_000)
