#!/usr/bin/env python3
# Leaves a process that swaps HOME between a directory and a link to a folder of the tree.
import os

home = os.environ["HOME"]
os.makedirs("foreign/home", exist_ok=True)
for name in ("a", "b"):
    open(os.path.join("foreign/home", name), "w").close()
foreign = os.path.abspath("foreign/home")
if os.fork() == 0:
    os.setsid()
    while True:
        try:
            os.rename(home, home + "-moved")
            os.symlink(foreign, home)
            os.unlink(home)
            os.rename(home + "-moved", home)
        except OSError:
            pass
