"""A build on its way to ship, with a dispatcher that may die; and what must be so at the end.

Owns what an operator has: a repository, a dispatcher.toml, a data folder, hosts.  Looks at rows as
a stranger who writes nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.helpers.dispatcher_processes import DispatcherProcess, ForkServer
from tests.helpers.namespace_host import NamespaceHost
from tests.helpers.running_dispatcher import SampleRepository

#: Seconds that anything may take on a machine with much to do.
SCENARIO_TIMEOUT = 60.0
#: Seconds between two looks: at what has a process in it, or a file.
_POLL_INTERVAL = 0.02
PIPELINE_TOML = """
[build]
command = '''echo "$NOSEJOBS_JOB $NOSEJOBS_ATTEMPT build" >> {ran}; mkdir dist; cp app dist/'''
output = "dist"
labels = ["build"]
[stages.unit]
tests = ["tests/unit"]
[stages.smoke]
tests = ["tests/smoke"]
[levels]
ship = ["unit", "smoke"]
"""
_LOCAL_HOST = '[hosts.here]\nspec = "popen"\nlabels = ["build"]\n'
#: What a process leaves that was killed in the middle of something.
_TEMPORARY_NAMES = (".part", ".new-", ".tmp", "tmp_")


class Scenario:
    """One repository, one data folder, one dispatcher at a time."""

    def __init__(self, folder: Path, fork_server: ForkServer, empty_database: Path) -> None:
        """``folder``: as ``desks.state`` makes it; the hosts of this machine live there.

        ``empty``: a database to begin with.
        """
        self.folder, self._fork_server, self._empty_database = folder, fork_server, empty_database
        self.data = folder / "data"
        #: Each command and each test writes here who it is.
        self.record = folder / "ran"
        #: A test that waits has begun, and may go on.
        self.begun_file, self.go_file = folder / "begun", folder / "go"
        self.tree = SampleRepository(folder / "tree")
        self.write_config()
        self.tree.program("app", "echo the app")
        self.revision = ""
        self._dispatchers: list[DispatcherProcess] = []
        self._previous_url_file = (0, 0)

    # -- before -------------------------------------------------------------------

    def write_config(self) -> None:
        """The tree's own file."""
        self.tree.config(PIPELINE_TOML.format(ran=self.record))

    def commit(self, *, slow: bool = False, noise: int = 0, extra: str = "") -> None:
        """``slow``: the test of the first stage waits; ``noise``: bytes that it leaves.

        ``extra``: what it does besides.
        """
        self.tree.test("smoke", self._line("smoke"))
        lines = [self._line("unit"), extra]
        if noise:
            lines.append(f'head -c {noise} /dev/urandom > "$TEST_UNDECLARED_OUTPUTS_DIR/noise"')
        if slow:
            lines += [
                f"echo begun > {self.begun_file}",
                f"while [ ! -e {self.go_file} ]; do sleep 0.02; done",
            ]
        self.tree.test("unit", "\n".join(lines))
        self.revision = self.tree.commit()

    def _line(self, stage: str) -> str:
        return f'echo "$NOSEJOBS_JOB $NOSEJOBS_ATTEMPT {stage}" >> {self.record}'

    def write_settings(self, hosts: str = _LOCAL_HOST, more: str = "") -> None:
        """The dispatcher's own file."""
        own = f'[dispatcher]\ndata = "data"\nlisten = "127.0.0.1:0"\npoll = "1h"\n{more}\n'
        source = f'[sources.here]\ngit = "{self.tree.path}"\n'
        (self.folder / "dispatcher.toml").write_text(own + source + hosts)

    # -- dispatchers --------------------------------------------------------------

    def start_dispatcher(self, point: str = "", **more: str) -> DispatcherProcess:
        """Another one, which dies at that point."""
        self._previous_url_file = self._url_file_version()
        if not self.data.exists():
            self.data.mkdir(mode=0o700)
            self.create_database()
        self._dispatchers.append(
            self._fork_server.start_dispatcher(self.folder, environment(**more), point)
        )
        return self._dispatchers[-1]

    def create_database(self) -> None:
        """The data folder has a database that nobody has to make."""
        shutil.copy(self._empty_database, self.data / "dispatcher.db")

    def _url_file_version(self) -> tuple[int, int]:
        """Which file it is that says where a dispatcher answers; a killed one has left its own."""
        with contextlib.suppress(FileNotFoundError):
            rows = (self.data / "url").stat()
            return rows.st_ino, rows.st_mtime_ns
        return 0, 0

    def wait_until_up(self) -> None:
        """The last one answers: from then on it ends as it should when it is asked to."""
        self.wait_until(
            "its address", lambda: self._url_file_version() not in (self._previous_url_file, (0, 0))
        )

    def close(self) -> None:
        """None is left."""
        while self._dispatchers:
            self._dispatchers.pop().close()

    @property
    def log(self) -> str:
        """What they said."""
        return (self.folder / "up.log").read_text(errors="replace")

    # -- rows ---------------------------------------------------------------------

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Of the dispatcher's database, read by somebody who writes nothing."""
        try:
            return _rows(self.data / "dispatcher.db", statement, *values)
        except sqlite3.OperationalError:  # it is being made
            return []

    def jobs(self, stage: str) -> list[tuple[str, int, str, str]]:
        """Host, attempt, state, package of each job of a stage, in order."""
        return self.rows(  # type: ignore[return-value]
            "SELECT host, attempt, job.state, package_digest FROM job JOIN stage_run"
            " ON stage_run.id = job.stage_run WHERE stage = ? ORDER BY attempt",
            stage,
        )

    def wait_until(self, what: str, condition: Callable[[], object]) -> None:
        """Look until it is so."""
        deadline = time.monotonic() + SCENARIO_TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, (
                f"waited in vain for {what}\n{self._describe_state()}"
            )
            time.sleep(_POLL_INTERVAL)

    def _describe_state(self) -> str:
        rows = [
            self.rows("SELECT stage, number, state, detail FROM stage_run"),
            self.rows("SELECT stage_run, host, attempt, state, detail FROM job"),
            self.rows("SELECT name, state, reason FROM host"),
        ]
        return "\n".join([*map(str, rows), self.log])

    @property
    def level(self) -> str:
        """Of the build."""
        rows = self.rows("SELECT level FROM build")
        return str(rows[0][0]) if rows else ""

    @property
    def is_done(self) -> bool:
        """It is shipped, and all hosts know that their jobs are harvested."""
        open_ = "SELECT id FROM job WHERE state NOT IN ('acknowledged', 'lost')"
        return self.level == "ship" and not self.rows(open_)

    def wait_until_shipped(self) -> None:
        """All is done, and all hosts know it."""
        self.wait_until("ship", lambda: self.is_done)

    # -- at the end ---------------------------------------------------------------

    def check(self, lost: Mapping[str, int] = {}, packages: int = 0) -> None:
        """Nobody could tell what happened, but for ``lost``: how many jobs of a stage.

        ``packages``: of lost jobs that came late, and are evidence.
        """
        assert self.rows("SELECT state, level, reused_build FROM build") == [
            ("built", "ship", None)
        ]
        runs = self.rows("SELECT stage, number, state FROM stage_run ORDER BY id")
        assert runs == [(stage, 1, "passed") for stage in ("build", "unit", "smoke")]
        self._check_tags()
        late = 0
        for stage in ("build", "unit", "smoke"):
            gone = lost.get(stage, 0)
            rows = self.jobs(stage)
            states = ["lost"] * gone + ["acknowledged"]
            assert [(attempt, state) for _, attempt, state, _ in rows] == list(enumerate(states, 1))
            late += sum(bool(package) for _, _, state, package in rows if state == "lost")
        assert late == packages
        results = "SELECT count(*) FROM result GROUP BY job"
        assert self.rows(results) == [(1,)] * (3 + packages)
        self._check_record()

    def _check_tags(self) -> None:
        """Each once, on the job that counts."""
        tags = self.rows("SELECT stage, actor, revoked_at FROM tag ORDER BY id")
        assert tags == [("unit", "policy", None), ("smoke", "policy", None)]
        told = self.rows(
            "SELECT action FROM audit WHERE action LIKE 'tag %' OR action LIKE 'level %'"
        )
        assert told == [("tag unit",), ("tag smoke",), ("level ship",)]
        assert len(self.rows("SELECT id FROM audit WHERE action LIKE 'change %'")) == 1

    def _check_record(self) -> None:
        """What ran was a job that has a row, in an attempt of its own."""
        ran = [line.split() for line in self.record.read_text().splitlines()]
        assert max(Counter(map(tuple, ran)).values()) == 1, ran
        stages = dict(
            self.rows(
                "SELECT job.id, stage FROM job JOIN stage_run ON stage_run.id = job.stage_run"
            )
        )
        assert {job: stage for job, _, stage in ran}.items() <= stages.items()
        assert {stage for _, _, stage in ran} == {"build", "unit", "smoke"}

    def check_data(self) -> None:
        """The dispatcher has left nothing that is half."""
        rows = [str(each.relative_to(self.data)) for each in self.data.rglob("*")]
        half = [each for each in rows if any(sign in each for sign in _TEMPORARY_NAMES)]
        assert not half
        assert not list((self.data / "incoming").iterdir())
        assert not (self.data / "url").exists()
        assert not list((self.data / "mirrors").rglob("*.lock"))

    def ran_jobs(self, stage: str) -> list[str]:
        """UUIDs of the jobs of a stage that ran, as often as they ran."""
        words = (line.split() for line in self.record.read_text().splitlines())
        return [job for job, _, name in words if name == stage]


def environment(**more: str) -> dict[str, str]:
    """Ours, with this checkout."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **more}


def check_queue(state: Path) -> None:
    """No host with its state there has a job that anybody waits for, nor a worker."""
    queues = list(state.glob("nosejobs/hosts/*/jobs/queue.db"))
    assert queues
    for queue in queues:
        assert {row[0] for row in _rows(queue, "SELECT state FROM job")} <= {"harvested"}
        assert _rows(queue, "SELECT count(*) FROM worker") == [(0,)]


def wait_until_quiet(machine: NamespaceHost) -> None:
    """Nothing runs there but its agent."""
    machine.wait_for("the worker's leaving", lambda: not machine.list_other_processes())


def wait_until_gone(folder: Path) -> None:
    """A gateway sees a moment later that its dispatcher was killed; then nobody is left."""
    deadline = time.monotonic() + SCENARIO_TIMEOUT
    while left := _find_processes(folder):
        assert time.monotonic() < deadline, left
        time.sleep(_POLL_INTERVAL)


def _find_processes(folder: Path) -> list[str]:
    """Commands of processes whose environment names a folder."""
    rows = []
    for each in Path("/proc").iterdir():
        if not each.name.isdigit() or int(each.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in (each / "environ").read_bytes():
                rows.append((each / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return rows


def _rows(path: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    uri = f"file:{path}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as db:
        return list(db.execute(statement, values))
