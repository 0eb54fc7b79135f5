"""A provider without machines: what it has is files, and who kills a host removes one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from pathlib import Path

from dispatcher.configuration.settings import Pool
from dispatcher.hosts.hookspecs import Handle, Raised
from shell_runner.errors import HostError, UsageError


class FakePool:
    """Hosts that are processes of nobody; ``troubles``: what the next ones fail with."""

    def __init__(self, folder: Path) -> None:
        self._hosts = folder / "hosts"
        self.troubles: list[Exception] = []
        self.closed = False

    def check(self, pool: Pool) -> None:
        """No options."""
        if pool.options:
            raise UsageError(f"[pools.{pool.name}.options]: there are none")

    def _path(self, name: str) -> Path:
        return self._hosts / name

    def bring_up(self, name: str, pool: Pool, handle: Handle | None) -> Raised:
        """A file with a number of its own."""
        self.check(pool)
        if self.troubles:
            raise self.troubles.pop(0)
        if handle is None or not self.is_alive(name, handle):
            handle = {"number": uuid.uuid4().hex}
            self._hosts.mkdir(parents=True, exist_ok=True)
            self._path(name).write_text(json.dumps(handle))
        return Raised("popen", handle, 2)

    def is_alive(self, name: str, handle: Handle) -> bool:
        """The same number."""
        try:
            return bool(json.loads(self._path(name).read_text()) == handle)
        except (FileNotFoundError, ValueError):
            return False

    def take_down(self, name: str, handle: Handle | None) -> None:
        """The file goes."""
        self._path(name).unlink(missing_ok=True)

    def existing(self) -> Collection[str]:
        """The files."""
        return [path.name for path in self._hosts.glob("*")]

    def close(self) -> None:
        """They may stay."""
        self.closed = True

    def kill(self, name: str, handle: Handle) -> None:
        """As if by its owner: something of it is left."""
        self._path(name).write_text("dead")


def refusal() -> HostError:
    """What a provider says when it has none."""
    return HostError("cloud", "there are no machines left")
