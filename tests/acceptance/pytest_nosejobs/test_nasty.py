"""Tests of nasty programs: each has the right outcome in both modes and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.helpers import private_namespace
from tests.nasty import corpus, process_watch
from tests.nasty.corpus import NastyProgram
from tests.nasty.nasty_run import NastyRun, NastyTestcase, check, count_cases, get_key

HERE: tuple[str, ...] = ()
GATEWAY = ("--nosejobs=2*popen",)


TOGETHER = corpus.filter_runnable(corpus.TOGETHER)
#: Heavy programs run in one place only, since both use the same slot code.
PLACES = {
    "here": (HERE, [case for case in TOGETHER if not case.heavy]),
    "gateway": (GATEWAY, TOGETHER),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterable[dict[str, NastyRun]]:
    """Yield a run for each place; both have run at the same time."""
    folder = tmp_path_factory.mktemp("nasty")
    runs_by_place = {
        name: NastyRun(folder, cases, options) for name, (options, cases) in PLACES.items()
    }
    for run in runs_by_place.values():
        run.start()
    for run in runs_by_place.values():
        run.finish()
    yield runs_by_place
    for run in runs_by_place.values():
        run.remove()


@pytest.fixture(scope="module")
def results(runs: dict[str, NastyRun]) -> dict[str, dict[str, NastyTestcase]]:
    return {name: run.results() for name, run in runs.items()}


@pytest.mark.parametrize(
    ("place", "case"),
    [
        pytest.param(name, case, id=f"{name}-{number}-{case.file}")
        for name, (_, cases) in PLACES.items()
        for number, case in enumerate(cases)
    ],
)
def test_outcome(
    place: str, case: NastyProgram, results: dict[str, dict[str, NastyTestcase]]
) -> None:
    check(case, results[place][get_key(case)])


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_left_behind(place: str, runs: dict[str, NastyRun]) -> None:
    assert runs[place].list_leftovers() == []


@pytest.mark.parametrize("place", PLACES)
def test_reports_are_whole(place: str, runs: dict[str, NastyRun]) -> None:
    run = runs[place]
    etree = pytest.importorskip("lxml.etree")
    tests = etree.parse(str(run.xml)).findall(".//testcase")
    assert len(tests) == len(PLACES[place][1])
    assert "INTERNALERROR" not in run.output
    assert "\x1b[2J" not in run.output


@pytest.mark.parametrize("place", PLACES)
def test_what_is_bound_into_a_temporary_directory_stays(
    place: str, runs: dict[str, NastyRun]
) -> None:
    case = next((case for case in TOGETHER if case.file == "bind_mount.sh"), None)
    if case is None:
        pytest.skip("needs root")
    assert (runs[place].tree / case.path).exists()


@pytest.mark.parametrize("place", PLACES)
def test_leftovers_are_warned_of_once_a_test(place: str, runs: dict[str, NastyRun]) -> None:
    lines = [line for line in runs[place].output.splitlines() if "LeftoversWarning" in line]
    expected = [case for case in PLACES[place][1] if case.leftovers]
    assert len(lines) == len(expected)
    for case in expected:
        assert sum(f": {case.id}: left " in line for line in lines) == 1


INNOCENT = NastyProgram("named.sh", corpus.PASSED, output="no matter", name="test_innocent.sh")


def test_a_killed_host_is_named_and_others_go_on(tmp_path: Path) -> None:
    specs = "popen//id=one,popen//id=two,popen//id=three"
    run = NastyRun(tmp_path, [corpus.KILL_HOST, INNOCENT], [f"--nosejobs={specs}"]).start()
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
    run = NastyRun(tmp_path, [corpus.KILL_HOST, INNOCENT, after]).start()
    assert run.finish() == 6, run.output
    for case in (corpus.KILL_HOST, INNOCENT, after):
        check(case, run.get_testcase(case))
    assert run.list_leftovers() == []
    run.remove()


@pytest.mark.parametrize("options", [HERE, GATEWAY], ids=["here", "gateway"])
def test_results_at_their_limits_cost_no_other_test(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    cases = [*corpus.RESULTS, *corpus.CASES, INNOCENT]
    run = NastyRun(tmp_path, cases, [*options, f"--nosejobs-artifacts={tmp_path / 'art'}"]).start()
    run.finish()
    for case in (*corpus.RESULTS, INNOCENT):
        check(case, run.get_testcase(case))
    results = run.results()
    for case, counts in corpus.CASES.items():
        assert count_cases(case, results) == counts
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
    run = NastyRun(tmp_path, cases, options)
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
    run = NastyRun(tmp_path, [case, *after], options)
    monkeypatch.setenv("BEFORE", str(tmp_path / "mounts"))
    run.start([*private_namespace.UNSHARE, "sh", "-c", private_namespace.COMPARE_MOUNTS, "sh"])
    assert run.finish() == 0, run.output
    for each in (case, *after):
        check(each, run.get_testcase(each))
        assert (run.tree / each.path).exists()
    if (run.tree / "base" / "foreign" / "out").exists():
        assert len(list((run.tree / "base" / "foreign").rglob("file"))) == 4
    assert run.list_leftovers() == []
    run.remove()


@pytest.mark.parametrize("mode", ["fail", "ignore"])
def test_what_leftovers_come_to(mode: str, tmp_path: Path) -> None:
    case = NastyProgram("hold_stdout.sh", corpus.PASSED)
    run = NastyRun(tmp_path, [case], [*GATEWAY, "-o", f"nosejobs_leftovers={mode}"]).start()
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
    run = NastyRun(folder, cases, ["--nosejobs=popen"]).start()
    assert run.process is not None
    memory = process_watch.watch_until_exit(run.process, 120.0)
    run.read_log()
    for case in cases:
        check(case, run.get_testcase(case))
    assert run.list_leftovers() == []
    run.remove()
    return memory
