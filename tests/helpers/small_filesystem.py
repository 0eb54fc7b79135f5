"""A small file system that tests can fill."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest


class SmallFilesystem:
    """A small tmpfs at ``folder``, which all processes see."""

    def __init__(self, folder: Path, size: str) -> None:
        """Prepare a file system of this ``size``, in the syntax of mount(8)."""
        self.folder, self._size = folder, size
        self._ballast = folder / "ballast"

    def mount(self) -> None:
        """Mount it; skip the test if that is not permitted."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size},mode=700", "none", self.folder]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small file system requires root")

    def unmount(self) -> None:
        """Unmount it as soon as no process uses it."""
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def set_writable(self, is_writable: bool) -> None:
        """Remount it writable or read-only."""
        options = f"remount,{'rw' if is_writable else 'ro'}"
        subprocess.run(["mount", "-o", options, self.folder], check=True)

    @property
    def free_bytes(self) -> int:
        """The number of free bytes."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Fill it until only ``leave`` bytes are free."""
        with open(self._ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while self.free_bytes > leave:
                file.write(bytes(min(self.free_bytes - leave, 1 << 20)))

    def clear(self) -> None:
        """Remove what ``fill`` has written."""
        self._ballast.unlink()
