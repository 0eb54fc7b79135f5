#!/usr/bin/env python3
# Writes 12 MB of bytes that take six characters each in a message.
import sys

for stream in (sys.stdout, sys.stderr):
    stream.buffer.write(bytes([255]) * 6_000_000)
sys.exit(1)
