"""Processes that run `nosejobs up` or another command, and can kill themselves at a crash point.

Each is forked from a server process that has imported the modules, since the imports take longer
than most tests.

A crash point is a step that is too short to be hit from outside: a function of the dispatcher is
wrapped in that process, which kills itself with SIGKILL before or after the call.  Nothing else
differs from the process that an operator starts.
"""

from __future__ import annotations

import contextlib
import gc
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

REPOSITORY_ROOT = Path(__file__).parents[2]
PROCESS_TIMEOUT = 60.0


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


class ForkServer:
    """A process from which dispatchers are forked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.dispatcher_processes"],
            cwd=REPOSITORY_ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY_ROOT)},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start_dispatcher(
        self, folder: Path, environment: Mapping[str, str], point: str = ""
    ) -> DispatcherProcess:
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
    ) -> DispatcherProcess:
        """Run a command of `nosejobs`; ``out`` and ``error`` are output files in ``folder``."""
        request = {
            "folder": str(folder), "environment": dict(environment), "point": point,
            "arguments": arguments, "out": out, "error": error or out,
        }  # fmt: skip
        for name in (out, error):
            (folder / (name or out)).touch(0o600)
        return DispatcherProcess(self._request(request), self._request)

    def _request(self, request: Mapping[str, Any] | int) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class DispatcherProcess:
    """A dispatcher, or another command, in its own process."""

    def __init__(self, pid: int, reap: Callable[[int], int]) -> None:
        """``bury`` waits for the process and returns its exit status, negative for a signal."""
        self.pid = pid
        self._reap = reap
        self._descriptor = os.pidfd_open(pid)

    def send(self, number: int) -> None:
        """Send a signal."""
        signal.pidfd_send_signal(self._descriptor, number)

    @property
    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return not select.select([self._descriptor], [], [], 0)[0]

    def wait(self) -> None:
        """Wait until the process has ended."""
        assert select.select([self._descriptor], [], [], PROCESS_TIMEOUT)[0], (
            "the process has not ended in time"
        )

    def kill(self) -> None:
        """Kill the process as `kill -9` does."""
        if self.is_alive:
            self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """Stop the process as Ctrl-C does."""
        self.send(signal.SIGINT)
        self.wait()

    def close(self) -> None:
        """Kill the process, and release its resources."""
        self.kill()
        os.close(self._descriptor)
        self._reap(self.pid)

    def wait_for_status(self) -> int:
        """Wait until the process has ended by itself; return its exit status."""
        self.wait()
        os.close(self._descriptor)
        return self._reap(self.pid)


def _main() -> None:
    # Modules that a dispatcher imports when it needs them; alembic is for a new database.
    import alembic.command  # noqa: F401
    import click
    import uvicorn.lifespan.on
    import uvicorn.loops.auto
    import uvicorn.protocols.http.auto
    import uvicorn.protocols.websockets.auto  # noqa: F401

    import dispatcher.cli.api_client
    import dispatcher.cli.commands
    import dispatcher.cli.stage_log
    import dispatcher.cli.tables
    import dispatcher.up
    import shell_runner.hosts.ca  # noqa: F401

    # Garbage collections of children must not touch these objects: shared pages stay shared.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            print(os.waitstatus_to_exitcode(os.waitpid(request, 0)[1]), flush=True)
            continue
        child = os.fork()
        if not child:
            _enter_environment(request)
            click.Group("nosejobs", commands=list(dispatcher.cli.commands.ALL_COMMANDS)).main(
                request["arguments"]
            )
        print(child, flush=True)


def _enter_environment(request: Mapping[str, Any]) -> None:
    """Set up the process as a shell would do it."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number, name in ((1, request["out"]), (2, request["error"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    if match := _COMMIT_POINT.fullmatch(request["point"]):
        _install_at_commit(int(match[2]), after=match[1] == "after")
    elif request["point"]:
        _install_crash_point(
            CRASH_POINTS[request["point"]], Path("data", "dispatcher.db").absolute()
        )


if __name__ == "__main__":
    _main()
