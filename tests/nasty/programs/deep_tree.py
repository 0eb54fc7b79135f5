#!/usr/bin/env python3
# Creates 3000 nested folders.
import os

os.chdir(os.environ["TMPDIR"])
for _ in range(3000):
    os.mkdir("d")
    os.chdir("d")
