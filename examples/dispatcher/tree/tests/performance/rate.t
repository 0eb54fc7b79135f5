#!/usr/bin/env python3
# Reports a number: the YAML below a line of TAP becomes a measurement of the build.
import subprocess
import time

words = 200_000
text = b"seven words are on each line here\n" * (words // 7)
began = time.perf_counter()
subprocess.run(["tally"], input=text, stdout=subprocess.DEVNULL, check=True)
rate = words / (time.perf_counter() - began)
print("TAP version 14\n1..1")
print("ok 1 - counts" if rate > 10_000 else "not ok 1 - counts")
print(f"  ---\n  rate: {rate:.0f} words/s\n  ...")
