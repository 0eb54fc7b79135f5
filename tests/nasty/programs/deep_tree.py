#!/usr/bin/env python3
# A folder in a folder, 3000 times.
import os

os.chdir(os.environ["TMPDIR"])
for _ in range(3000):
    os.mkdir("d")
    os.chdir("d")
