"""Tests of nasty programs: each has the right outcome in both modes and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers import private_namespace
from tests.nasty import corpus, process_watch
from tests.nasty.corpus import NastyProgram

ROOT = Path(__file__).parents[3]
HERE: tuple[str, ...] = ()
GATEWAY = ("--nosejobs=2*popen",)


@dataclass
class Testcase:
    """The content of one testcase of JUnit XML."""

    outcome: str = corpus.PASSED
    message: str = ""
    output: str = ""
    properties: dict[str, str] = field(default_factory=dict)


class Run:
    """A run of pytest over a tree of nasty programs."""

    def __init__(
        self, folder: Path, cases: Iterable[NastyProgram], options: Iterable[str] = ()
    ) -> None:
        self.marker = f"nasty-{uuid.uuid4().hex}"
        self.tree = folder / self.marker
        self.tree.mkdir(parents=True)
        self.xml = folder / f"{self.marker}.xml"
        self.tmp = Path(corpus.TMP or folder) / f"{self.marker}-tmp"
        self.tmp.mkdir()
        corpus.write_tree(self.tree, cases)
        self.output = ""
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, before: Iterable[str] = ()) -> Run:
        """Start the run; ``before`` is a command that executes the interpreter."""
        ini = {
            "nosejobs_grace": "0.3",
            "nosejobs_pass_env": "NASTY_MARKER",
            "junit_logging": "all",
        }
        command = [
            *before, sys.executable, "-m", "pytest", "-q", f"--rootdir={self.tree}",
            f"--junitxml={self.xml}", "-p", "no:randomly",
            *(word for name, value in ini.items() for word in ("-o", f"{name}={value}")),
            *self._options,
        ]  # fmt: skip
        env = {
            **os.environ, "TMPDIR": str(self.tmp), "NASTY_MARKER": self.marker,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        self.log = self.xml.with_suffix(".log").open("w+b")
        self.process = subprocess.Popen(
            command, cwd=self.tree, env=env, stdout=self.log, stderr=subprocess.STDOUT
        )
        return self

    def finish(self, timeout: float = 120.0) -> int:
        """Wait for the end of the run; return its exit status."""
        assert self.process is not None
        status = self.process.wait(timeout)
        self.read_log()
        return status

    def read_log(self) -> None:
        self.log.seek(0)
        self.output = self.log.read().decode(errors="replace")
        self.log.close()

    def results(self) -> dict[str, Testcase]:
        """Return the testcases by ``class/name``, where the class is the folder."""
        testcases = {}
        for element in ET.parse(self.xml).iter("testcase"):
            testcases[f"{element.get('classname')}/{element.get('name')}"] = _read_testcase(element)
        return testcases

    def get_testcase(self, case: NastyProgram) -> Testcase:
        """Return the testcase of one program."""
        return self.results()[_key(case)]

    def list_leftovers(self) -> list[str]:
        """Return processes and temporary folders that are left."""
        processes = process_watch.find_leftovers(self.marker)
        return [*processes, *map(str, self.tmp.glob("nosejobs-*"))]

    def remove(self) -> None:
        shutil.rmtree(self.tmp, ignore_errors=True)


def _key(case: NastyProgram) -> str:
    folder, _, name = case.id.rpartition("/")
    return f"{folder.replace('/', '.') or '.'}/{name}"


def _read_testcase(element: ET.Element) -> Testcase:
    testcase = Testcase()
    for tag, outcome in (
        ("failure", corpus.FAILED), ("error", corpus.ERROR), ("skipped", corpus.SKIPPED),
    ):  # fmt: skip
        problem = element.find(tag)
        if problem is not None:
            testcase.outcome = outcome
            testcase.message = f"{problem.get('message')}\n{problem.text}"
    streams = [element.find("system-out"), element.find("system-err")]
    testcase.output = "".join(each.text or "" for each in streams if each is not None)
    for each in element.iter("property"):
        testcase.properties[each.get("name", "")] = each.get("value", "")
    return testcase


def check(case: NastyProgram, found: Testcase) -> None:
    """Check a testcase against all expectations of the table."""
    assert found.outcome == case.outcome, found.message
    assert case.message in found.message
    assert case.output in found.output
    if case.leftovers:
        assert case.leftovers in found.properties.get("leftovers", "")
    else:
        assert "leftovers" not in found.properties


TOGETHER = corpus.filter_runnable(corpus.TOGETHER)
#: Heavy programs run in one place only, since both use the same slot code.
PLACES = {
    "here": (HERE, [case for case in TOGETHER if not case.heavy]),
    "gateway": (GATEWAY, TOGETHER),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterable[dict[str, Run]]:
    """Yield a run for each place; both have run at the same time."""
    folder = tmp_path_factory.mktemp("nasty")
    runs_by_place = {name: Run(folder, cases, options) for name, (options, cases) in PLACES.items()}
    for run in runs_by_place.values():
        run.start()
    for run in runs_by_place.values():
        run.finish()
    yield runs_by_place
    for run in runs_by_place.values():
        run.remove()


@pytest.fixture(scope="module")
def results(runs: dict[str, Run]) -> dict[str, dict[str, Testcase]]:
    return {name: run.results() for name, run in runs.items()}


@pytest.mark.parametrize(
    ("place", "case"),
    [
        pytest.param(name, case, id=f"{name}-{number}-{case.file}")
        for name, (_, cases) in PLACES.items()
        for number, case in enumerate(cases)
    ],
)
def test_outcome(place: str, case: NastyProgram, results: dict[str, dict[str, Testcase]]) -> None:
    check(case, results[place][_key(case)])


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_left_behind(place: str, runs: dict[str, Run]) -> None:
    assert runs[place].list_leftovers() == []


@pytest.mark.parametrize("place", PLACES)
def test_reports_are_whole(place: str, runs: dict[str, Run]) -> None:
    run = runs[place]
    etree = pytest.importorskip("lxml.etree")
    tests = etree.parse(str(run.xml)).findall(".//testcase")
    assert len(tests) == len(PLACES[place][1])
    assert "INTERNALERROR" not in run.output
    assert "\x1b[2J" not in run.output


@pytest.mark.parametrize("place", PLACES)
def test_what_is_bound_into_a_temporary_directory_stays(place: str, runs: dict[str, Run]) -> None:
    case = next((case for case in TOGETHER if case.file == "bind_mount.sh"), None)
    if case is None:
        pytest.skip("needs root")
    assert (runs[place].tree / case.path).exists()


@pytest.mark.parametrize("place", PLACES)
def test_leftovers_are_warned_of_once_a_test(place: str, runs: dict[str, Run]) -> None:
    lines = [line for line in runs[place].output.splitlines() if "LeftoversWarning" in line]
    expected = [case for case in PLACES[place][1] if case.leftovers]
    assert len(lines) == len(expected)
    for case in expected:
        assert sum(f": {case.id}: left " in line for line in lines) == 1


INNOCENT = NastyProgram("named.sh", corpus.PASSED, output="no matter", name="test_innocent.sh")


def test_a_killed_host_is_named_and_others_go_on(tmp_path: Path) -> None:
    specs = "popen//id=one,popen//id=two,popen//id=three"
    run = Run(tmp_path, [corpus.KILL_HOST, INNOCENT], [f"--nosejobs={specs}"]).start()
    assert run.finish() == 6, run.output
    testcase = run.get_testcase(corpus.KILL_HOST)
    check(corpus.KILL_HOST, testcase)
    lost = [name for name in ("one", "two", "three") if f"host {name}:" in run.output]
    assert len(lost) == 2
    assert all(name in testcase.message for name in lost)
    check(INNOCENT, run.get_testcase(INNOCENT))
    assert run.list_leftovers() == []
    run.remove()


def test_a_killed_host_here_is_an_error_of_its_test_alone(tmp_path: Path) -> None:
    after = NastyProgram("named.sh", corpus.PASSED, output="no matter", name="test_z_after.sh")
    run = Run(tmp_path, [corpus.KILL_HOST, INNOCENT, after]).start()
    assert run.finish() == 6, run.output
    for case in (corpus.KILL_HOST, INNOCENT, after):
        check(case, run.get_testcase(case))
    assert run.list_leftovers() == []
    run.remove()


@pytest.mark.parametrize("options", [HERE, GATEWAY], ids=["here", "gateway"])
def test_results_at_their_limits_cost_no_other_test(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    cases = [*corpus.RESULTS, corpus.LARGE_FAILURES, INNOCENT]
    run = Run(tmp_path, cases, [*options, f"--nosejobs-artifacts={tmp_path / 'art'}"]).start()
    run.finish()
    for case in (*corpus.RESULTS, INNOCENT):
        check(case, run.get_testcase(case))
    failures = [name for name, found in run.results().items() if found.outcome == corpus.FAILED]
    assert len(failures) == corpus.LARGE_FAILURES_COUNT
    assert "INTERNALERROR" not in run.output
    assert "hosts lost" not in run.output
    assert run.list_leftovers() == []
    run.remove()


@pytest.mark.skipif(not corpus.filter_runnable([corpus.FULL]), reason="needs root, to mount")
@pytest.mark.parametrize("options", [HERE, GATEWAY], ids=["here", "gateway"])
def test_a_full_file_system_harms_nobody_else(options: tuple[str, ...], tmp_path: Path) -> None:
    after = [
        NastyProgram("named.sh", corpus.PASSED, name=f"test_z_{number}.sh") for number in range(3)
    ]
    cases = [corpus.FULL, *after]
    run = Run(tmp_path, cases, options)
    mount = f'mount -t tmpfs -o size=2m none {run.tmp} && exec "$@"'
    done = run.start(["unshare", "--mount", "sh", "-c", mount, "sh"]).finish()
    # Another test may fail because the disk is full at that moment.
    if options == HERE:
        assert done == 0, run.output
        for case in cases:
            check(case, run.get_testcase(case))
    check(corpus.FULL, run.get_testcase(corpus.FULL))
    assert run.list_leftovers() == []
    run.remove()


#: Checks, after the command, that the mounts are the same as before it.
_COMPARE_MOUNTS = """
list() { cut -d" " -f1,4,5 /proc/self/mountinfo; }
list >"$BEFORE"; "$@"; status=$?; list | cmp - "$BEFORE" || exit 99; exit $status
"""


@private_namespace.needs_namespace
@pytest.mark.parametrize(
    "case", corpus.filter_runnable(corpus.DIRECTORIES), ids=lambda case: case.file
)
@pytest.mark.parametrize("options", [HERE, GATEWAY], ids=["here", "gateway"])
def test_links_and_mounts_in_place_of_directories(
    case: NastyProgram, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = [
        NastyProgram("clean_directories.sh", corpus.PASSED, name=f"test_z_{number}.sh")
        for number in range(4)
    ]
    run = Run(tmp_path, [case, *after], options)
    monkeypatch.setenv("BEFORE", str(tmp_path / "mounts"))
    run.start([*private_namespace.UNSHARE, "sh", "-c", _COMPARE_MOUNTS, "sh"])
    assert run.finish() == 0, run.output
    for each in (case, *after):
        check(each, run.get_testcase(each))
        assert (run.tree / each.path).exists()
    if (run.tree / "base" / "foreign").exists():
        assert len(list((run.tree / "base" / "foreign").rglob("file"))) == 4
    assert run.list_leftovers() == []
    run.remove()


@pytest.mark.parametrize("mode", ["fail", "ignore"])
def test_what_leftovers_come_to(mode: str, tmp_path: Path) -> None:
    case = NastyProgram("hold_stdout.sh", corpus.PASSED)
    run = Run(tmp_path, [case], [*GATEWAY, "-o", f"nosejobs_leftovers={mode}"]).start()
    run.finish()
    testcase = run.get_testcase(case)
    assert testcase.outcome == (corpus.FAILED if mode == "fail" else corpus.PASSED)
    assert ("left 1 process, killed: sleep" in testcase.message) == (mode == "fail")
    assert testcase.properties["leftovers"] == "1 process, killed: sleep"
    assert "LeftoversWarning" not in run.output
    run.remove()


def test_floods_take_little_memory(tmp_path: Path) -> None:
    idle = _memory(tmp_path, [NastyProgram("late_output.sh", corpus.PASSED)])
    flooded = _memory(tmp_path, corpus.FLOODS)
    limit = 64 << 10
    assert flooded.controller < idle.controller + limit
    assert flooded.host < idle.host + limit
    assert flooded.slot < idle.slot + limit


def _memory(folder: Path, cases: Iterable[NastyProgram]) -> process_watch.PeakMemory:
    run = Run(folder, cases, ["--nosejobs=popen"]).start()
    assert run.process is not None
    memory = process_watch.watch_until_exit(run.process, 120.0)
    run.read_log()
    for case in cases:
        check(case, run.get_testcase(case))
    assert run.list_leftovers() == []
    run.remove()
    return memory
