"""A scenario of a build on its way to ship, with dispatchers that may be killed.

Has what an operator has: a repository, a dispatcher.toml, a data folder, hosts.  Checks at the end
that nothing shows the kills.  Reads the database without writing to it.
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

#: Seconds that a step may take on a busy machine.
SCENARIO_TIMEOUT = 60.0
#: Seconds between two polls of files, rows and processes.
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
#: Parts of names of files that a killed process may leave.
_TEMPORARY_NAMES = (".part", ".new-", ".tmp", "tmp_")


class Scenario:
    """One repository, one data folder, one dispatcher at a time."""

    def __init__(self, folder: Path, fork_server: ForkServer, empty_database: Path) -> None:
        """``folder`` was prepared by ``job_hosts.state``; hosts of this machine store data there.

        ``empty_database`` is the path of a database with the schema and no rows.
        """
        self.folder, self._fork_server, self._empty_database = folder, fork_server, empty_database
        self.data = folder / "data"
        #: File to which each command and each test appends job, attempt and stage.
        self.record = folder / "ran"
        #: Files that a slow test creates when it has started, and waits for.
        self.begun_file, self.go_file = folder / "begun", folder / "go"
        self.tree = SampleRepository(folder / "tree")
        self.write_config()
        self.tree.write_script("app", "echo the app")
        self.revision = ""
        self._dispatchers: list[DispatcherProcess] = []
        self._previous_url_file = (0, 0)

    # -- before -------------------------------------------------------------------

    def write_config(self) -> None:
        """Write the nosejobs.toml of the repository."""
        self.tree.write_config(PIPELINE_TOML.format(ran=self.record))

    def commit(self, *, slow: bool = False, noise: int = 0, extra: str = "") -> None:
        """Commit a revision with a test for each stage.

        If ``slow``, the test of the first stage waits for ``go_file``.  ``noise`` is the number of
        bytes of an output file of it, ``extra`` are further lines of its script.
        """
        self.tree.write_test("smoke", self._line("smoke"))
        lines = [self._line("unit"), extra]
        if noise:
            lines.append(f'head -c {noise} /dev/urandom > "$TEST_UNDECLARED_OUTPUTS_DIR/noise"')
        if slow:
            lines += [
                f"echo begun > {self.begun_file}",
                f"while [ ! -e {self.go_file} ]; do sleep 0.02; done",
            ]
        self.tree.write_test("unit", "\n".join(lines))
        self.revision = self.tree.commit()

    def _line(self, stage: str) -> str:
        return f'echo "$NOSEJOBS_JOB $NOSEJOBS_ATTEMPT {stage}" >> {self.record}'

    def write_settings(self, hosts: str = _LOCAL_HOST, more: str = "") -> None:
        """Write dispatcher.toml."""
        own = f'[dispatcher]\ndata = "data"\nlisten = "127.0.0.1:0"\npoll = "1h"\n{more}\n'
        source = f'[sources.here]\ngit = "{self.tree.path}"\n'
        (self.folder / "dispatcher.toml").write_text(own + source + hosts)

    # -- dispatchers --------------------------------------------------------------

    def start_dispatcher(self, point: str = "", **more: str) -> DispatcherProcess:
        """Start a dispatcher that kills itself at ``point``."""
        self._previous_url_file = self._url_file_version()
        if not self.data.exists():
            self.data.mkdir(mode=0o700)
            self.create_database()
        self._dispatchers.append(
            self._fork_server.start_dispatcher(self.folder, environment(**more), point)
        )
        return self._dispatchers[-1]

    def create_database(self) -> None:
        """Put a copy of the empty database into the data folder."""
        shutil.copy(self._empty_database, self.data / "dispatcher.db")

    def _url_file_version(self) -> tuple[int, int]:
        """Return inode and time of the URL file, since a killed dispatcher leaves its own."""
        with contextlib.suppress(FileNotFoundError):
            status = (self.data / "url").stat()
            return status.st_ino, status.st_mtime_ns
        return 0, 0

    def wait_until_up(self) -> None:
        """Wait until the last dispatcher answers; from then on it handles signals."""
        self.wait_until(
            "the URL of the dispatcher",
            lambda: self._url_file_version() not in (self._previous_url_file, (0, 0)),
        )

    def close(self) -> None:
        """Kill all dispatchers."""
        while self._dispatchers:
            self._dispatchers.pop().close()

    @property
    def log(self) -> str:
        """Return the output of all dispatchers."""
        return (self.folder / "up.log").read_text(errors="replace")

    # -- rows ---------------------------------------------------------------------

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the dispatcher's database."""
        try:
            return _rows(self.data / "dispatcher.db", statement, *values)
        except sqlite3.OperationalError:  # it is being created
            return []

    def jobs(self, stage: str) -> list[tuple[str, int, str, str]]:
        """Return host, attempt, state and package of each job of a stage, by attempt."""
        return self.rows(  # type: ignore[return-value]
            "SELECT host, attempt, job.state, package_digest FROM job JOIN stage_run"
            " ON stage_run.id = job.stage_run WHERE stage = ? ORDER BY attempt",
            stage,
        )

    def wait_until(self, what: str, condition: Callable[[], object]) -> None:
        """Poll until a condition is true."""
        deadline = time.monotonic() + SCENARIO_TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, (
                f"timeout while waiting for {what}\n{self._describe_state()}"
            )
            time.sleep(_POLL_INTERVAL)

    def _describe_state(self) -> str:
        tables = [
            self.rows("SELECT stage, number, state, detail FROM stage_run"),
            self.rows("SELECT stage_run, host, attempt, state, detail FROM job"),
            self.rows("SELECT name, state, reason FROM host"),
        ]
        return "\n".join([*map(str, tables), self.log])

    @property
    def level(self) -> str:
        """Return the level of the build."""
        rows = self.rows("SELECT level FROM build")
        return str(rows[0][0]) if rows else ""

    @property
    def is_done(self) -> bool:
        """Return whether the build has the level ship and all hosts know of the harvest."""
        open_ = "SELECT id FROM job WHERE state NOT IN ('acknowledged', 'lost')"
        return self.level == "ship" and not self.rows(open_)

    def wait_until_shipped(self) -> None:
        """Wait until ``is_done``."""
        self.wait_until("ship", lambda: self.is_done)

    # -- at the end ---------------------------------------------------------------

    def check_rows(self, lost: Mapping[str, int] = {}, packages: int = 0) -> None:
        """Check that the rows are those of an undisturbed build.

        ``lost`` is the number of lost jobs by stage, ``packages`` the number of packages of lost
        jobs that arrived late.
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
        """Check that each tag was granted once."""
        tags = self.rows("SELECT stage, actor, revoked_at FROM tag ORDER BY id")
        assert tags == [("unit", "policy", None), ("smoke", "policy", None)]
        actions = self.rows(
            "SELECT action FROM audit WHERE action LIKE 'tag %' OR action LIKE 'level %'"
        )
        assert actions == [("tag unit",), ("tag smoke",), ("level ship",)]
        assert len(self.rows("SELECT id FROM audit WHERE action LIKE 'change %'")) == 1

    def _check_record(self) -> None:
        """Check that each attempt ran once, and that each has a row."""
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
        """Check that the dispatcher has left no temporary files."""
        names = [str(path.relative_to(self.data)) for path in self.data.rglob("*")]
        assert not [name for name in names if any(part in name for part in _TEMPORARY_NAMES)]
        assert not list((self.data / "incoming").iterdir())
        assert not (self.data / "url").exists()
        assert not list((self.data / "mirrors").rglob("*.lock"))

    def ran_jobs(self, stage: str) -> list[str]:
        """Return the UUIDs of jobs of a stage, once for each time that they ran."""
        records = (line.split() for line in self.record.read_text().splitlines())
        return [job for job, _, name in records if name == stage]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of this process, with this repository in the Python path."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **more}


def check_queue(state: Path) -> None:
    """Check that no host with its data in ``state`` has an unharvested job or a worker."""
    queues = list(state.glob("nosejobs/hosts/*/jobs/queue.db"))
    assert queues
    for queue in queues:
        assert {row[0] for row in _rows(queue, "SELECT state FROM job")} <= {"harvested"}
        assert _rows(queue, "SELECT count(*) FROM worker") == [(0,)]


def wait_until_quiet(machine: NamespaceHost) -> None:
    """Wait until only the agent runs on a host."""
    machine.wait_for("the worker's leaving", lambda: not machine.list_other_processes())


def wait_until_gone(folder: Path) -> None:
    """Wait until no process of the scenario is left.

    A gateway process notices a moment later that its dispatcher was killed.
    """
    deadline = time.monotonic() + SCENARIO_TIMEOUT
    while left := _find_processes(folder):
        assert time.monotonic() < deadline, left
        time.sleep(_POLL_INTERVAL)


def _find_processes(folder: Path) -> list[str]:
    """Return the commands of processes whose environment names a folder."""
    rows = []
    for process_folder in Path("/proc").iterdir():
        if not process_folder.name.isdigit() or int(process_folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in (process_folder / "environ").read_bytes():
                rows.append((process_folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return rows


def _rows(path: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    uri = f"file:{path}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as db:
        return list(db.execute(statement, values))
