"""The dispatcher: hook to command, six stages to ship, builds a minute, idle, rows harvested.

Beside Buildbot, if ``buildbot`` and ``buildbot-worker`` are in the PATH.  Both run as their users
run them: servers, hosts and workers are processes of their own, on loopback, with their databases
on a disk.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import resource
import select
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import buildbot_master  # noqa: E402
import fleet  # noqa: E402
import jobs  # noqa: E402
import measure  # noqa: E402
from measure import Run, RunFailed  # noqa: E402

#: The file cannot be called so: the package of that name would be hidden by it.
NAME = "dispatcher"
#: Seconds that anything may take.
_PATIENCE = 120.0
#: Seconds for a server to end by itself: a master of Buildbot waits for the builds that run.
_END = 20.0
_STAGES = ("unit", "smoke", "regression", "performance", "scalability", "resilience")
#: Sources, and the projects of Buildbot: one command that says that it runs; all six stages;
#: one command, of each of many commits.
_HOOK, _CHAIN, MANY = "hook", "chain", "many"
_TICKS = os.sysconf("SC_CLK_TCK")
_OURS, _PEER = "nosejobs", "Buildbot"

_HOOK_NOTES = (
    "From the HTTP POST that requests a poll until the command says that it runs. "
    "In between nosejobs fetches the commit, writes its tree, reads its config, ships the tree to "
    "the host, and has the job in both databases; Buildbot is told of a revision and looks at no "
    "repository. The processor seconds are those of all processes, until the build has its tag.",
)
_CHAIN_NOTES = (
    "From the same request until the last of six stages, each of one trivial command, has its "
    "tag and the build its level; in Buildbot six builders, each triggered by the one before "
    "(Dependent schedulers), until the last build has ended. Each stage of nosejobs is a durable "
    "job: tree, tests and config on the host, results packaged, verified, and kept as rows.",
)
_MANY_NOTES = (
    "So many commits (bursts = every) are there when the poll is requested, or so many changes are "
    "sent in; until the last build has its tag. Hosts and workers are agents and processes on "
    "this machine, which has few cores: what four hosts could do more, they cannot here.",
)


def main(smoke: bool) -> dict[str, Any]:
    """Measure; a smoke run only shows that it works."""
    lacking = [each for each in ("cryptography", "sqlalchemy", "fastapi") if not _has(each)]
    if lacking:
        return {"tables": [], "skipped": [f"{each} is not installed" for each in lacking]}
    skipped: list[str] = []
    figures: dict[str, Any] = {}
    tables: list[dict[str, Any]] = []
    with jobs.folders() as (disk, memory):
        base = memory if smoke else disk
        for hosts in (1,) if smoke else (1, 4):
            with _sides(base / f"hosts-{hosts}", hosts, skipped) as sides:
                tables += _both(sides, hosts, smoke, figures)
        with jobs.state(base / "harvest"):
            table, peak = _harvest(base / "harvest", *((2000, 1) if smoke else (100_000, 5)))
        tables.append(table)
        figures |= peak | _starts(base / "starts", 1 if smoke else 2)
    return {"tables": tables, "skipped": sorted(set(skipped)), **figures}


def _has(name: str) -> bool:
    return measure.has_module(name)


def _both(
    sides: Mapping[str, DispatcherUnderTest], hosts: int, smoke: bool, figures: dict[str, Any]
) -> list[dict[str, Any]]:
    base = _PEER if _PEER in sides else _OURS
    count = 3 if smoke else 40
    tables = []
    if hosts == 1:
        rounds = 1 if smoke else 7
        for title, act, notes in (
            ("hook to command", _to_command, _HOOK_NOTES),
            ("six stages, commit to ship", _to_ship, _CHAIN_NOTES),
        ):
            runs = _in_turn(sides, act, rounds)
            title = f"{title}, {measure.format_rounds(rounds)}"
            tables.append(measure.table(title, runs, base, notes))
    rounds = 1 if smoke else 2
    runs = _in_turn(sides, lambda side: _through(side, count), rounds)
    words = f"{hosts} host{'s' if hosts > 1 else ''}"
    title = f"{count} builds, {words}, {measure.format_rounds(rounds)}"
    tables.append(measure.table(title, runs, base, _MANY_NOTES if hosts == 1 else ()))
    for name, done in runs.items():
        figures[f"{name}, {words}: builds a minute"] = 60 * count / _median(done)
    for name, side in sides.items():
        figures |= {
            f"{name}, {words}: {what}": found
            for what, found in _idle(side, 0.5 if smoke else 10.0).items()
        }
    return tables


def _median(done: Sequence[Run]) -> float:
    return statistics.median(each.wall for each in done)


# -- what is measured ---------------------------------------------------------------


class DispatcherUnderTest(Protocol):
    """A running dispatcher."""

    #: Its server.
    process: subprocess.Popen[bytes]

    def commit(self, project: str, count: int = 1) -> None:
        """Make so many changes that it does not know of."""

    def notify(self, project: str) -> None:
        """Notify it of the changes."""

    def await_command(self) -> None:
        """Wait until the command runs."""

    def await_end(self, project: str) -> None:
        """Wait until all builds of this project have ended."""


def _in_turn(
    sides: Mapping[str, DispatcherUnderTest], act: Callable[[DispatcherUnderTest], Run], rounds: int
) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for side in sides.values():
        act(side)  # what is done once has been done
    for number in range(rounds):
        for name, side in sides.items():
            runs[name].append(act(side))
            last = runs[name][-1]
            words = f"{last.wall:.3f} s, {last.cpu:.3f} processor seconds"
            print(f"  round {number + 1}/{rounds}  {name}: {words}", file=sys.stderr)
    return runs


def _to_command(side: DispatcherUnderTest) -> Run:
    return _timed(side, _HOOK, 1, side.await_command)


def _to_ship(side: DispatcherUnderTest) -> Run:
    return _timed(side, _CHAIN, 1, lambda: side.await_end(_CHAIN))


def _through(side: DispatcherUnderTest, count: int) -> Run:
    return _timed(side, MANY, count, lambda: side.await_end(MANY))


def _timed(side: DispatcherUnderTest, project: str, count: int, wait: Callable[[], None]) -> Run:
    side.commit(project, count)
    cpu, begin = _processor_seconds(), time.perf_counter()
    side.notify(project)
    wait()
    wall = time.perf_counter() - begin
    side.await_end(project)
    return Run(wall, _processor_seconds() - cpu, 0, 0)


def _processor_seconds() -> float:
    """Return the processor seconds of all processes that were started here, ended ones included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime + sum(map(_used, measure.descendants(os.getpid())))


def _used(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS


def _idle(side: DispatcherUnderTest, seconds: float) -> dict[str, float]:
    """Measure memory and processor time of an idle server."""
    pid = side.process.pid
    time.sleep(seconds / 10)  # the last results are written
    before = _used(pid)
    time.sleep(seconds)
    return {
        "idle, MB": _resident(pid),
        "idle, MB of the processes below": round(
            sum(measure.status(each, "VmRSS:") for each in measure.descendants(pid)) / 1024, 1
        ),
        "idle, ms of processor a second": round((_used(pid) - before) * 1000 / seconds, 2),
        "threads": measure.status(pid, "Threads:"),
    }


def _starts(folder: Path, count: int) -> dict[str, float]:
    """Measure memory after a start; the first one creates the database."""
    folder.mkdir(parents=True)
    lines = ["[dispatcher]", 'data = "data"', 'listen = "127.0.0.1:0"']
    (folder / "dispatcher.toml").write_text("\n".join(lines) + "\n")
    url, found = folder / "data" / "url", {}
    for which in ("first start", "started again")[:count]:
        with _up(folder) as process:
            wait_until(url.is_file, process, folder)
            time.sleep(0.5)  # the threads have looked
            found[f"{_OURS}, no host, {which}: MB"] = _resident(process.pid)
    return found


def _resident(pid: int, what: str = "VmRSS:") -> float:
    return round(measure.status(pid, what) / 1024, 1)


# -- both sides ---------------------------------------------------------------------


@contextlib.contextmanager
def _sides(
    folder: Path, hosts: int, skipped: list[str]
) -> Iterator[dict[str, DispatcherUnderTest]]:
    measure.become_subreaper()
    with contextlib.ExitStack() as stack:
        sides: dict[str, DispatcherUnderTest] = {
            _OURS: stack.enter_context(run_nosejobs(folder / "ours", hosts))
        }
        if shutil.which("buildbot") and shutil.which("buildbot-worker"):
            sides[_PEER] = stack.enter_context(run_buildbot(folder / "buildbot", hosts))
        else:
            skipped.append("Buildbot is not installed: buildbot[bundle], buildbot-worker")
        yield sides


@contextlib.contextmanager
def _process(argv: Sequence[str], folder: Path, **variables: str) -> Iterator[Any]:
    """Run a server; its output goes to ``log``."""
    env = measure.environment(**variables)
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(what: Callable[[], Any], process: subprocess.Popen[bytes], folder: Path) -> Any:
    """Poll every few milliseconds.  Raises RunFailed if it takes too long."""
    deadline = time.monotonic() + _PATIENCE
    while not (found := what()):
        if process.poll() is not None or time.monotonic() > deadline:
            words = (folder / "log").read_text(errors="replace")[-3000:]
            raise RunFailed(f"{process.args}: not within {_PATIENCE:g} s\n{words}")
        time.sleep(0.004)
    return found


class _Fifo:
    """A FIFO whose lines are read as soon as they are written."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        # For both: a writer never waits for us.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._pending = b""

    def line(self) -> str:
        """Return the next line."""
        while b"\n" not in self._pending:
            if not select.select([self._descriptor], [], [], _PATIENCE)[0]:
                raise RunFailed(f"{self.path}: nothing within {_PATIENCE:g} s")
            self._pending += os.read(self._descriptor, 1 << 16)
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode()


# -- nosejobs -----------------------------------------------------------------------


_GIT = {
    **{f"GIT_{who}_{what}": f"bench{'@example.org' * (what == 'EMAIL')}"
       for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}  # fmt: skip


class _Ours:
    def __init__(self, folder: Path, process: subprocess.Popen[bytes], heard: _Fifo) -> None:
        self.process, self._folder, self._heard = process, folder, heard
        self._wanted: dict[str, int] = {}
        url = wait_until(self._url, process, folder)
        self._address = urllib.parse.urlsplit(url).netloc
        self._database = sqlite3.connect(
            f"file:{folder / 'data/dispatcher.db'}?mode=ro", uri=True, isolation_level=None
        )

    def _url(self) -> str:
        path = self._folder / "data" / "url"
        return path.read_text().strip() if path.is_file() else ""

    def close(self) -> None:
        self._database.close()

    def await_hosts(self, count: int) -> None:
        """Wait until all hosts are up."""
        self._await("SELECT count(*) = ? FROM host WHERE state = 'up'", count)

    def _await(self, statement: str, *values: object) -> None:
        wait_until(
            lambda: self._database.execute(statement, values).fetchone()[0],
            self.process, self._folder,
        )  # fmt: skip

    def commit(self, project: str, count: int = 1) -> None:
        tree = self._folder / project
        for _ in range(count):
            number = self._wanted[project] = self._wanted.get(project, 0) + 1
            (tree / "number").write_text(f"{number}\n")
            _git(tree, "add", "-A")
            _git(tree, "commit", "-q", "-m", f"number {number}")

    def notify(self, project: str) -> None:
        _post(self._address, f"/api/v1/poke/{project}", b"{}", {"Content-Type": "application/json"})

    def await_command(self) -> None:
        self._heard.line()

    def await_end(self, project: str) -> None:
        self._await(
            "SELECT count(*) >= ? FROM build JOIN change ON change.id = build.change "
            "JOIN source ON source.id = change.source WHERE source.name = ? AND level = ?",
            self._wanted[project], project, "ship" if project == _CHAIN else "published",
        )  # fmt: skip


def _git(folder: Path, *arguments: str) -> None:
    command = ["git", "-c", "gc.auto=0", *arguments]
    subprocess.run(command, cwd=folder, env={**os.environ, **_GIT}, check=True)


def _post(address: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
    connection = http.client.HTTPConnection(address, timeout=_PATIENCE)
    try:
        connection.request("POST", path, body, dict(headers))
        answer = connection.getresponse()
        words = answer.read()
        if answer.status >= 300:
            raise RunFailed(f"{path}: {answer.status} {words!r}")
    finally:
        connection.close()


@contextlib.contextmanager
def run_nosejobs(folder: Path, hosts: int) -> Iterator[DispatcherUnderTest]:
    """Run `nosejobs up` with so many agents."""
    folder.mkdir(parents=True)
    heard = _Fifo(folder / "heard")
    for name, stages, body in (
        (_HOOK, _STAGES[:1], f"echo runs > {heard.path}"),
        (_CHAIN, _STAGES, "exit 0"),
        (MANY, _STAGES[:1], "exit 0"),
    ):
        _write_tree(folder / name, stages, body)
    try:
        with fleet.agents(folder / "fleet", hosts) as agents:
            _write_config(folder, agents)
            with _up(folder) as process:
                side = _Ours(folder, process, heard)
                with contextlib.closing(side):
                    side.await_hosts(hosts)
                    for name in (_HOOK, _CHAIN, MANY):
                        # Of a branch that nobody has seen only the last commit is built.
                        _timed(side, name, 1, lambda: None)
                    heard.line()
                    yield side
    finally:
        jobs.end_workers(folder)


def _up(folder: Path) -> contextlib.AbstractContextManager[Any]:
    return _process([sys.executable, "-m", "dispatcher", "up"], folder, PYTHONPATH=str(ROOT))


def _write_tree(tree: Path, stages: Sequence[str], body: str) -> None:
    for stage in stages:
        (tree / "tests" / stage).mkdir(parents=True)
        measure.write_script(tree / "tests" / stage / "test_it.sh", body)
    config = [f'[stages.{each}]\ntests = ["tests/{each}"]\n' for each in stages]
    if stages != _STAGES:
        config.append(f"[levels]\npublished = {json.dumps(stages)}\n")
    (tree / "nosejobs.toml").write_text("".join(config))
    _git(tree, "init", "-q", "-b", "main")


def _write_config(folder: Path, agents: Sequence[fleet.Agent]) -> None:
    lines = ["[dispatcher]", 'data = "data"', 'listen = "127.0.0.1:0"', 'poll = "1h"']
    for name in (_HOOK, _CHAIN, MANY):
        lines += [f"[sources.{name}]", f'git = "{name}"', 'bursts = "every"']
    for each in agents:
        spec = "//".join(
            word for word in each.spec(1).split("//") if not word.startswith(("name=", "slots="))
        )
        lines += [f"[hosts.{each.name}]", f'spec = "{spec}"', "slots = 1"]
    (folder / "dispatcher.toml").write_text("\n".join(lines) + "\n")


# -- Buildbot -----------------------------------------------------------------------


class _Buildbot:
    def __init__(self, process: subprocess.Popen[bytes], port: int, heard: _Fifo, done: _Fifo):
        self.process, self._port, self._heard, self._done = process, port, heard, done
        self._number = 0
        self._told: dict[str, int] = {}
        #: Builds that have not come to their end.
        self._open = 0

    def commit(self, project: str, count: int = 1) -> None:
        self._told[project] = count

    def notify(self, project: str) -> None:
        for _ in range(self._told[project]):
            self._number += 1
            form = {"project": project, "revision": f"{self._number:040x}", "comments": "more"}
            form |= {"author": "bench", "branch": "main"}
            body = urllib.parse.urlencode(form).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            _post(f"127.0.0.1:{self._port}", "/change_hook/base", body, headers)
        self._open = self._told[project] * (len(_STAGES) if project == _CHAIN else 1)

    def await_command(self) -> None:
        self._heard.line()

    def await_end(self, project: str) -> None:
        while self._open:
            if self._done.line() != "0":
                raise RunFailed(f"Buildbot: a build of {project} has failed")
            self._open -= 1


@contextlib.contextmanager
def run_buildbot(folder: Path, hosts: int) -> Iterator[DispatcherUnderTest]:
    """Run a Buildbot master with so many workers."""
    master = folder / "master"
    folder.mkdir(parents=True)
    heard, done = _Fifo(folder / "heard"), _Fifo(folder / "done")
    web, workers = _free_port(), _free_port()
    _run(["buildbot", "create-master", str(master)], folder)
    names = [f"w{number}" for number in range(hosts)]
    told = {
        "web": web, "workers": workers, "names": names, "stages": _STAGES,
        "heard": str(heard.path), "done": str(done.path),
    }  # fmt: skip
    shutil.copy(buildbot_master.__file__, master / "master.cfg")
    (master / "settings.json").write_text(json.dumps(told))
    with contextlib.ExitStack() as stack:
        start = ["buildbot", "start", "--nodaemon", str(master)]
        process = stack.enter_context(_process(start, folder))
        for name in names:
            place = folder / name
            _run(
                ["buildbot-worker", "create-worker", str(place), f"127.0.0.1:{workers}", name, "x"],
                folder,
            )
            start = ["buildbot-worker", "start", "--nodaemon", str(place)]
            stack.enter_context(_process(start, place))
        for _ in names:
            if not done.line().startswith("up "):
                raise RunFailed("Buildbot: no worker has come")
        yield _Buildbot(process, web, heard, done)


def _run(argv: Sequence[str], folder: Path) -> None:
    done = subprocess.run(argv, cwd=folder, env=measure.environment(), capture_output=True)
    if done.returncode:
        raise RunFailed(f"{' '.join(argv)}\n{(done.stdout + done.stderr).decode(errors='replace')}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# -- harvest ------------------------------------------------------------------------

_HARVEST_NOTES = (
    "A package whose one test has named so many cases becomes rows, on the disk. Rows alone: what "
    "was read goes into the database, in one transaction. Reading: the package is opened, each "
    "digest verified, its tests judged.",
)


def _harvest(folder: Path, count: int, rounds: int) -> tuple[dict[str, Any], dict[str, float]]:
    from dispatcher import up
    from dispatcher.builds import blob_store
    from dispatcher.hosts import job_builder, package_rows, result_recorder
    from dispatcher.store import jobs as job_rows
    from dispatcher.store import open_store
    from tests.unit.dispatcher import row_factories

    up.tune_process()
    package, identity = make_package(folder, count)
    reset_peak_memory()
    before, peak = _resident(os.getpid()), 0.0
    blobs = blob_store.BlobStore(folder / "blobs")
    runs: dict[str, list[Run]] = {"whole": [], "rows alone": [], "reading": []}
    for number in range(rounds):
        store = open_store(folder / f"{number}.db")
        with store.write() as connection:
            run = row_factories.add_run(connection, row_factories.add_built(connection))
            row_factories.add_jobs(connection, run, "h1")
            connection.exec_driver_sql("UPDATE job SET id = ?", (identity,))
            job = job_rows.get(connection, identity)
        assert job is not None
        copy = Path(shutil.copy(package, folder / "copy.zip"))
        builder = job_builder.JobBuilder(store, None, blobs)  # type: ignore[arg-type]
        recorder = result_recorder.ResultRecorder(store, blobs, builder)
        runs["whole"].append(_clocked(functools.partial(recorder.record, job, copy)))
        peak = max(peak, reset_peak_memory())
        with store.read() as connection:
            found = connection.exec_driver_sql("SELECT count(*) FROM case_result").scalar()
        if found != count:
            raise RunFailed(f"{found} cases of {count}")
        store.close()
        runs["reading"].append(_clocked(lambda: _read(package_rows, package, identity)))
        runs["rows alone"].append(
            _rows_alone(folder, number, _read(package_rows, package, identity))
        )
    title = f"{count} cases harvested, {measure.format_rounds(rounds)}"
    table = measure.table(title, runs, "whole", _HARVEST_NOTES)
    for row in table["rows"]:
        row["what"] += f", {count / row['median']:,.0f} cases/s"
    return table, {f"{count} cases harvested: MB more, at most": round(peak - before, 1)}


def reset_peak_memory() -> float:
    """Return the peak memory of this process in MB, and reset it."""
    found = _resident(os.getpid(), "VmHWM:")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return found


def _read(harvest: Any, package: Path, job: str) -> Any:
    with harvest.open_verified(package, "h1", job) as opened:
        return harvest.read_rows(opened, job)


def _rows_alone(folder: Path, number: int, found: Any) -> Run:
    from dispatcher.store import open_store, results
    from tests.unit.dispatcher import row_factories

    store = open_store(folder / f"alone-{number}.db")
    with store.write() as connection:
        _, _, job = row_factories.add_all(connection)

    def write() -> None:
        entry = results.PackageInfo("d1", "completed", 1.0)
        with store.write() as connection:
            results.record_package(connection, job, entry, found.results, found.cases)

    done = _clocked(write)
    store.close()
    return done


def _clocked(act: Callable[[], object]) -> Run:
    cpu, begin = time.process_time(), time.perf_counter()
    act()
    return Run(time.perf_counter() - begin, time.process_time() - cpu, 0, 0)


def make_package(folder: Path, count: int) -> tuple[Path, str]:
    """Make the package of a test with so many cases; return its path and the job's UUID."""
    tests = folder / "tests"
    tests.mkdir()
    lines = f"echo TAP version 14; echo 1..{count}; seq {count} | sed 's/.*/ok & - case number &/'"
    measure.write_script(tests / "test_many.sh", lines)
    target = folder / "package.zip"
    argv = [*jobs.COMMAND, "job", "submit", "--host", "popen", "--tests", str(tests)]
    argv += ["--wait", "--out", str(target)]
    done = subprocess.run(argv, env=measure.environment(), capture_output=True, text=True)
    if done.returncode:
        raise RunFailed(f"{' '.join(argv)}: {done.stderr}")
    return target, str(uuid.UUID(done.stdout.strip()))
