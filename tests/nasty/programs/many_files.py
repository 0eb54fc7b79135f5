#!/usr/bin/env python3
# Creates 100 000 files in TMPDIR.
import os

for folder in range(10):
    path = os.path.join(os.environ["TMPDIR"], str(folder))
    os.mkdir(path)
    for number in range(10_000):
        os.close(os.open(f"{path}/{number}", os.O_CREAT | os.O_WRONLY))
