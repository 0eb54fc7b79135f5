#!/usr/bin/env python3
# Leaves files below 985, 1500 and 3000 nested folders in its outputs directory.
import os

for depth in (985, 1500, 3000):
    os.chdir(os.environ["TEST_UNDECLARED_OUTPUTS_DIR"])
    os.mkdir(str(depth))
    os.chdir(str(depth))
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    open("deep", "w").close()
