"""Processes that run `nosejobs up` or another command, and can kill themselves at a crash point.

A crash point is a step that is too short to be hit from outside: a function of the dispatcher is
wrapped in that process, which kills itself with SIGKILL before or after the call.  Nothing else
differs from the process that an operator starts.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import re
import signal
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.helpers.fork_server import ForkedProcess, ForkServer, serve

if TYPE_CHECKING:
    from sqlalchemy import Connection


class CrashPoint(NamedTuple):
    """A step at which a dispatcher kills itself."""

    module: str
    #: A function of the module, or a method of one of its classes.
    name: str
    #: Whether the process dies after the call, or before it.
    after: bool
    #: Number of the call.
    call: int = 1
    #: SQL query: calls are counted from the moment that it returns a row.
    once: str = ""


CRASH_POINTS: Mapping[str, CrashPoint] = {
    # The build is job 1, the first stage is job 2.
    "detecting": CrashPoint(
        "dispatcher.builds.source_watcher", "SourceWatcher._supersede", after=False
    ),
    "detected": CrashPoint("dispatcher.builds.source_watcher", "SourceWatcher._write", after=True),
    "tree-half": CrashPoint("dispatcher.sources.checkout", "check_links", after=False),
    "build-planned": CrashPoint("dispatcher.hosts.job_steps", "JobSteps.submit", after=False),
    "artifact-half": CrashPoint("dispatcher.builds.build_artifact", "pack_folder", after=False),
    "artifact": CrashPoint("dispatcher.builds.build_artifact", "store_artifact", after=True),
    "built": CrashPoint("dispatcher.hosts.job_steps", "JobSteps.submit", after=False, call=2),
    "unrecorded": CrashPoint("shell_runner.jobs.client", "JobClient.submit", after=True, call=2),
    "submitted": CrashPoint("dispatcher.hosts.job_steps", "JobSteps.submit", after=True, call=2),
    "harvesting": CrashPoint(
        "shell_runner.jobs.client", "JobClient._read_package", after=False, call=3
    ),
    "downloaded": CrashPoint(
        "dispatcher.hosts.result_recorder", "ResultRecorder.record", after=False, call=2
    ),
    "stored": CrashPoint("dispatcher.builds.blob_store", "BlobStore.take", after=True, call=3),
    "harvested": CrashPoint(
        "dispatcher.hosts.result_recorder", "ResultRecorder.record", after=True, call=2
    ),
    "acknowledged": CrashPoint(
        "shell_runner.jobs.client", "JobClient.acknowledge", after=True, call=2
    ),
    "before-tag": CrashPoint("dispatcher.store.tags", "grant_tag", after=False),
    "tagging": CrashPoint("dispatcher.store.tags", "grant_tag", after=True),
    "tagged": CrashPoint(
        "dispatcher.reconciler.reconciler",
        "Reconciler._run_pass",
        after=True,
        once="SELECT id FROM tag",
    ),
}


#: Further crash points: ``before 7`` and ``after 7`` mean the seventh commit.
_COMMIT_POINT = re.compile("(before|after) ([0-9]+)")


def _install_crash_point(point: CrashPoint, database: Path) -> None:
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

    def die(original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        result = original(*arguments, **keywords) if point.after else None
        if counts():
            _kill_self()
        return result if point.after else original(*arguments, **keywords)

    wrapped = getattr(owner, name)
    setattr(owner, name, lambda *arguments, **keywords: die(wrapped, *arguments, **keywords))


def _install_at_commit(number: int, after: bool) -> None:
    """Let this process die right before or after the commit ``number`` that changes a row."""
    from dispatcher.store import engine

    write, calls = engine.Store.write, itertools.count(1)

    @contextlib.contextmanager
    def counted(self: engine.Store, **keywords: bool) -> Iterator[Connection]:
        is_it = False
        with write(self, **keywords) as connection:
            before = engine.count_changes(connection)
            yield connection
            if engine.count_changes(connection) != before:
                is_it = next(calls) == number
            if is_it and not after:
                _kill_self()
        if is_it:
            _kill_self()

    engine.Store.write = counted  # type: ignore[method-assign]


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def _rows(database: Path, statement: str) -> list[Any]:
    uri = f"file:{database}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as db:
        return list(db.execute(statement))


class DispatcherServer(ForkServer):
    """A process from which dispatchers are forked."""

    def __init__(self) -> None:
        super().__init__("tests.helpers.dispatcher_processes")

    def start_dispatcher(
        self, folder: Path, environment: Mapping[str, str], point: str = ""
    ) -> ForkedProcess:
        """Run `nosejobs up` in a folder with a dispatcher.toml; its output is in up.log there."""
        return self.start_command(folder, environment, "up", out="up.log", point=point)

    def start_command(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *arguments: str,
        out: str,
        error: str = "",
        point: str = "",
    ) -> ForkedProcess:
        """Run a command of `nosejobs`; ``out`` and ``error`` are output files in ``folder``."""
        return self.fork(folder, environment, arguments, out=out, error=error, point=point)


def _main() -> None:
    # Modules that a dispatcher imports when it needs them; alembic is for a new database.
    import alembic.command  # noqa: F401
    import uvicorn.lifespan.on
    import uvicorn.loops.auto
    import uvicorn.protocols.http.auto
    import uvicorn.protocols.websockets.auto  # noqa: F401

    import dispatcher.cli.api_client
    import dispatcher.cli.commands
    import dispatcher.cli.stage_log
    import dispatcher.cli.tables
    import dispatcher.up  # noqa: F401
    import shell_runner.hosts.ca  # noqa: F401

    serve(_run_command)


def _run_command(request: Mapping[str, Any]) -> None:
    import click

    from dispatcher.cli.commands import ALL_COMMANDS

    os.setsid()
    if match := _COMMIT_POINT.fullmatch(request["point"]):
        _install_at_commit(int(match[2]), after=match[1] == "after")
    elif request["point"]:
        _install_crash_point(
            CRASH_POINTS[request["point"]], Path("data", "dispatcher.db").absolute()
        )
    click.Group("nosejobs", commands=list(ALL_COMMANDS)).main(request["arguments"])


if __name__ == "__main__":
    _main()
