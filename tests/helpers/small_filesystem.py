"""A small file system, to be full."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest


class SmallFilesystem:
    """A small file system; what is done to it is seen by all that use it."""

    def __init__(self, folder: Path, size: str) -> None:
        """``size``: as mount takes it."""
        self.folder, self._size = folder, size
        self._ballast = folder / "ballast"

    def mount(self) -> None:
        """Skips where that is not allowed."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size},mode=700", "none", self.folder]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small file system needs mount(8), as root has it")

    def unmount(self) -> None:
        """It is gone when nobody uses it any more."""
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def set_writable(self, how: bool) -> None:
        """Or not."""
        words = f"remount,{'rw' if how else 'ro'}"
        subprocess.run(["mount", "-o", words, self.folder], check=True)

    @property
    def free_bytes(self) -> int:
        """Bytes."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Until there is only so much room."""
        with open(self._ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while self.free_bytes > leave:
                file.write(bytes(min(self.free_bytes - leave, 1 << 20)))

    def clear(self) -> None:
        """There is room again."""
        self._ballast.unlink()
