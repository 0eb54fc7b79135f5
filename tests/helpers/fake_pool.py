"""A provider whose hosts are files: a host runs while its file has the handle in it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from pathlib import Path

from shell_runner.errors import HostError, UsageError
from shell_runner.pools.provider import Handle, PoolOptions, RunningHost


class FakeProvider:
    """A provider of hosts without processes."""

    def __init__(self, folder: Path) -> None:
        self._hosts = folder / "hosts"
        #: Raised by the next calls of ``bring_up``, one by each.
        self.errors: list[Exception] = []
        self.closed = False

    def check(self, pool: PoolOptions) -> None:
        """Raise UsageError for any option."""
        if pool.options:
            raise UsageError(f"[pools.{pool.name}.options]: there are none")

    def _path(self, name: str) -> Path:
        return self._hosts / name

    def bring_up(self, name: str, pool: PoolOptions, handle: Handle | None) -> RunningHost:
        """Write a file with a unique number, unless the one of ``handle`` is there."""
        self.check(pool)
        if self.errors:
            raise self.errors.pop(0)
        if handle is None or not self.is_alive(name, handle):
            handle = {"number": uuid.uuid4().hex}
            self._hosts.mkdir(parents=True, exist_ok=True)
            self._path(name).write_text(json.dumps(handle))
        return RunningHost("popen", handle, 2)

    def is_alive(self, name: str, handle: Handle) -> bool:
        """Return whether the file has this handle in it."""
        try:
            return bool(json.loads(self._path(name).read_text()) == handle)
        except (FileNotFoundError, ValueError):
            return False

    def take_down(self, name: str, handle: Handle | None) -> None:
        """Remove the file."""
        self._path(name).unlink(missing_ok=True)

    def existing(self) -> Collection[str]:
        """Return the names of the files."""
        return [path.name for path in self._hosts.glob("*")]

    def close(self) -> None:
        """Record the call; the files stay."""
        self.closed = True

    def kill(self, name: str, handle: Handle) -> None:
        """End a host without the provider, so that something of it is left."""
        self._path(name).write_text("dead")


def no_machines_error() -> HostError:
    """Return the error of a provider that has no free machine."""
    return HostError("cloud", "there are no machines left")
