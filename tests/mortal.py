"""Dispatchers that are killed: `nosejobs up` in processes of their own, with a moment to die at.

Each is the command itself, in a process that was forked from one that has imported the modules
(they take longer than what is tested).  Steps that are too short to be seen from outside are
points: a function of the dispatcher is wrapped in that process alone, and the process kills itself
with SIGKILL before or after the call.  Nothing else differs from what an operator starts.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from sqlalchemy import Connection

CHECKOUT = Path(__file__).parents[1]
PATIENCE = 60.0


class Point(NamedTuple):
    """Where a dispatcher dies."""

    module: str
    #: A function of the module, or a method of one of its classes.
    name: str
    #: Before it is called, or after it has returned.
    after: bool
    #: At the which-th call.
    call: int = 1
    #: Only once this statement finds a row; calls count from then on.
    once: str = ""


POINTS: Mapping[str, Point] = {
    # The build is job 1, the first stage is job 2.
    "detecting": Point("dispatcher.watch", "Watch._supersede", after=False),
    "detected": Point("dispatcher.watch", "Watch._write", after=True),
    "tree-half": Point("dispatcher.sources", "_check_links", after=False),
    "build-planned": Point("dispatcher.link", "Link._submit", after=False),
    "artefact-half": Point("dispatcher.builds", "pack", after=False),
    "artefact": Point("dispatcher.builds", "artefact", after=True),
    "built": Point("dispatcher.link", "Link._submit", after=False, call=2),
    "handed-in": Point("shell_runner.jobs", "Client.submit", after=True, call=2),
    "submitted": Point("dispatcher.link", "Link._submit", after=True, call=2),
    "harvesting": Point("shell_runner.jobs", "Client._piece", after=False, call=3),
    "downloaded": Point("dispatcher.work", "Work.harvested", after=False, call=2),
    "stored": Point("dispatcher.evidence", "Blobs.take", after=True, call=3),
    "harvested": Point("dispatcher.work", "Work.harvested", after=True, call=2),
    "acknowledged": Point("shell_runner.jobs", "Client.acknowledge", after=True, call=2),
    "before-tag": Point("dispatcher.store.tags", "give_tag", after=False),
    "tagging": Point("dispatcher.store.tags", "give_tag", after=True),
    "tagged": Point(
        "dispatcher.reconcile", "Reconciler._look", after=True, once="SELECT id FROM tag"
    ),
}


#: Also a point: ``before 7`` and ``after 7`` mean the seventh commit.
_COMMIT = re.compile("(before|after) ([0-9]+)")


def _install(point: Point, database: Path) -> None:
    owner: Any = importlib.import_module(point.module)
    *classes, name = point.name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    calls = 0

    def counts() -> bool:
        nonlocal calls
        if point.once and not _rows(database, point.once):
            return False
        calls += 1
        return calls == point.call

    def die(original: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        found = original(*arguments, **named) if point.after else None
        if counts():
            _die()
        return found if point.after else original(*arguments, **named)

    wrapped = getattr(owner, name)
    setattr(owner, name, lambda *arguments, **named: die(wrapped, *arguments, **named))


def _install_at_commit(number: int, after: bool) -> None:
    """Right before or after the which-th commit that changes a row, whoever makes it."""
    from dispatcher.store import engine

    write, calls = engine.Store.write, itertools.count(1)

    @contextlib.contextmanager
    def counted(self: engine.Store, *, quiet: bool = False) -> Iterator[Connection]:
        is_it = False
        with write(self, quiet=quiet) as connection:
            before = engine.changes_of(connection)
            yield connection
            if engine.changes_of(connection) != before:
                is_it = next(calls) == number
            if is_it and not after:
                _die()
        if is_it:
            _die()

    engine.Store.write = counted  # type: ignore[method-assign]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def _rows(database: Path, statement: str) -> list[Any]:
    uri = f"file:{database}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as db:
        return list(db.execute(statement))


class Cradle:
    """The process of which dispatchers are forked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mortal"], cwd=CHECKOUT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def begin(self, folder: Path, environment: Mapping[str, str], point: str = "") -> Mortal:
        """`nosejobs up` in a folder with a dispatcher.toml, whose words are in up.log there."""
        assert self._process.stdin
        assert self._process.stdout
        order = {"folder": str(folder), "environment": dict(environment), "point": point}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Mortal(int(self._process.stdout.readline()))


class Mortal:
    """One dispatcher."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def send(self, number: int) -> None:
        """A signal."""
        signal.pidfd_send_signal(self._descriptor, number)

    @property
    def is_alive(self) -> bool:
        """Not dead yet."""
        return not select.select([self._descriptor], [], [], 0)[0]

    def wait(self) -> None:
        """Until it is dead."""
        assert select.select([self._descriptor], [], [], PATIENCE)[0], "the dispatcher lives on"

    def kill(self) -> None:
        """As kill -9 does."""
        if self.is_alive:
            self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """As Ctrl-C does."""
        self.send(signal.SIGINT)
        self.wait()

    def close(self) -> None:
        """Whatever it does."""
        self.kill()
        os.close(self._descriptor)


def _main() -> None:
    import uvicorn.loops.auto  # noqa: F401

    import dispatcher.cli
    import dispatcher.running

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            _become(order)
            dispatcher.cli.up.main(["--config", "dispatcher.toml"], prog_name="nosejobs up")
        print(child, flush=True)


def _become(order: Mapping[str, Any]) -> None:
    """As a shell would start it."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    tempfile.tempdir = None
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open("up.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if match := _COMMIT.fullmatch(order["point"]):
        _install_at_commit(int(match[2]), after=match[1] == "after")
    elif order["point"]:
        _install(POINTS[order["point"]], Path("data", "dispatcher.db").absolute())


if __name__ == "__main__":
    _main()
