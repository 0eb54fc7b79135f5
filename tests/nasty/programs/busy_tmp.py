#!/usr/bin/env python3
# Leaves a process that creates files in TMPDIR all the time.
import os

if os.fork() == 0:
    os.setsid()
    number = 0
    while True:
        number += 1
        os.makedirs(f"{os.environ['TMPDIR']}/{number}", exist_ok=True)
