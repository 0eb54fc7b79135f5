#!/usr/bin/env python3
# Has a child with an environment of one megabyte.
import os

env = {f"V{number}": "x" * 100_000 for number in range(10)}
os.execve("/bin/true", ["true"], {**os.environ, **env})
