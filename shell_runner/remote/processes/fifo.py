"""FIFOs that wake a process: write without blocking, open for reading, drain.

Must not know what is written.
"""

import os
import stat


def write(path: str, data: bytes) -> bool:
    """Write ``data`` into a FIFO without blocking; return False if no process reads it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        os.write(descriptor, data)
    except BlockingIOError:
        pass  # the reader has unread data, so it will wake up
    except BrokenPipeError:
        return False
    finally:
        os.close(descriptor)
    return True


def open_fifo(path: str) -> int:
    """Create a FIFO if there is none; return a descriptor to read from without blocking.

    The descriptor never reaches end of file.  Any other file at ``path`` is replaced.
    """
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            os.unlink(path)
            os.mkfifo(path, 0o600)
    # Open for writing, too: otherwise the FIFO is at end of file while no other process writes.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


def drain(descriptor: int) -> bytes:
    """Return the written bytes, at most 64 KiB; empty if there are none."""
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return b""
