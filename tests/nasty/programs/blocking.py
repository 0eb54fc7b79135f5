#!/usr/bin/env python3
# Gets standard output as it should be.
import os

assert os.get_blocking(1)
assert os.get_blocking(2)
os.write(1, b"x" * 1_000_000)
