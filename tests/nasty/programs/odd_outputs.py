#!/usr/bin/env python3
# Leaves links, a pipe, a sparse terabyte, odd names and 3000 files in its outputs directory.
import os

os.chdir(os.environ["TEST_UNDECLARED_OUTPUTS_DIR"])
os.symlink("/", "root")
os.symlink("/etc/passwd", "file")
os.symlink("loop", "loop")
os.mkfifo("pipe")
with open("sparse", "wb") as file:
    file.truncate(1 << 40)
for name in (b"\xff\xfe", b"new\nline", b"\x1b[31mred", b"x" * 255, b"-rf"):
    open(name, "w").close()
os.mkdir("closed")
os.chmod("closed", 0)
for number in range(3000):
    open(f"{number}.txt", "w").close()
