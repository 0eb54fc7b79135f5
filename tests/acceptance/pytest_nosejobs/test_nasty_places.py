"""Tests of nasty programs run by another user, over an agent, and over an agent of another user."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.helpers import private_namespace
from tests.nasty import corpus, places
from tests.nasty.corpus import NastyProgram
from tests.nasty.nasty_run import NastyRun, compare, count_cases
from tests.nasty.places import NastyPlace

#: Root over popen is in test_nasty.py.
PLACES = {
    "user": NastyPlace(places.OTHER_USER),
    "agent": NastyPlace(agent=True),
    "agent-user": NastyPlace(places.OTHER_USER, agent=True),
}
pytestmark = pytest.mark.skipif(
    not places.is_other_user_able(), reason="needs root, to become another user"
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Yield a folder that the other user may enter."""
    path = Path(tempfile.mkdtemp(prefix="nasty-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def runs(folder: Path) -> Iterator[dict[str, tuple[NastyRun, NastyRun]]]:
    """Yield the runs for each place: the corpus, and what reaches limits of results."""
    runs = {}
    for name, place in PLACES.items():
        if place.user:
            shutil.chown(folder, place.user)
        programs = corpus.filter_runnable(corpus.TOGETHER, place.user)
        run = NastyRun(folder, [each for each in programs if not each.heavy], user=place.user)
        results = [*corpus.RESULTS, *corpus.CASES]
        artifacts = f"--nosejobs-artifacts={folder / name}"
        large = NastyRun(folder, results, [artifacts], place.user)
        runs[name] = run, large
    for number in range(2):  # those with large results at the end
        for name, place in PLACES.items():
            run = runs[name][number]
            run.start(place.build_command(run))
        for name in PLACES:
            runs[name][number].finish()
    yield runs
    for pair in runs.values():
        for run in pair:
            run.remove()


@pytest.mark.parametrize("name", PLACES)
def test_the_whole_corpus(name: str, runs: dict[str, tuple[NastyRun, NastyRun]]) -> None:
    run, _ = runs[name]
    assert find_problems(run, run.programs) == {}
    check_end(run)


@pytest.mark.parametrize("name", PLACES)
def test_results_at_their_limits(name: str, runs: dict[str, tuple[NastyRun, NastyRun]]) -> None:
    _, run = runs[name]
    assert find_problems(run, corpus.RESULTS) == {}
    results = run.results()
    for program, counts in corpus.CASES.items():
        assert count_cases(program, results) == counts
    check_end(run)


def find_problems(run: NastyRun, programs: Iterable[NastyProgram]) -> dict[str, str]:
    """Return by program what differs from its expectations."""
    results = run.results()
    return {each.id: problem for each in programs if (problem := compare(each, results))}


def check_end(run: NastyRun) -> None:
    """Check that a run lost nothing and has left nothing."""
    assert "INTERNALERROR" not in run.output
    assert "hosts lost" not in run.output
    assert run.list_leftovers() == []


CLEAN = "clean_directories.sh"


@private_namespace.needs_namespace
@pytest.mark.parametrize("name", PLACES)
def test_links_and_mounts_in_place_of_directories(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, programs = PLACES[name], []
    for number, program in enumerate(corpus.filter_runnable(corpus.DIRECTORIES, PLACES[name].user)):
        clean = [f"{number:02}{letter}/test_clean.sh" for letter in "ab"]
        programs += [program, *(NastyProgram(CLEAN, corpus.PASSED, name=each) for each in clean)]
    programs.append(NastyProgram("foreign_kept.sh", corpus.PASSED, name="base/test_z_kept.sh"))
    run = NastyRun(folder, programs, user=place.user)
    monkeypatch.setenv("BEFORE", str(run.tmp / "mounts"))
    compare_mounts = [*private_namespace.UNSHARE, "sh", "-c", private_namespace.COMPARE_MOUNTS]
    run.start([*compare_mounts, "sh", *place.build_command(run)])
    assert run.finish() == 0, run.output
    assert find_problems(run, programs) == {}
    assert all((run.tree / each.path).exists() for each in programs)
    assert run.list_leftovers() == []
    run.remove()


#: Lets the first process of a PID namespace, which ``kill -9 -1`` spares, report the exit status.
SHOW_STATUS = '"$@"; echo "status $?"'
#: The wrapper that docs/isolation.md recommends.
OWN_PROCESSES = "unshare --user --map-root-user --pid --fork --kill-child --mount-proc {file}"


def run_kill_all(folder: Path, place: NastyPlace, wrapper: str = "") -> NastyRun:
    """Run a program that kills all it can, before and after others, in namespaces of its own."""
    names = [f"test_{letter}.sh" for letter in "abxyz"]
    innocent = [NastyProgram("named.sh", corpus.PASSED, name=name) for name in names]
    programs = [*innocent[:2], corpus.KILL_ALL, *innocent[2:]]
    run = NastyRun(folder, programs, ["-o", "nosejobs_host_timeout=5"], place.user)
    if wrapper:
        (run.tree / "nosejobs.toml").write_text(f"[tests.'*']\nrun = {wrapper!r}\n")
    command = place.build_command(run)
    run.start([*private_namespace.UNSHARE, "sh", "-c", SHOW_STATUS, "sh", *command])
    run.finish()
    run.remove()
    return run


@private_namespace.needs_namespace
def test_kill_all_ends_pytest_of_the_same_user(folder: Path) -> None:
    run = run_kill_all(folder, NastyPlace())
    assert "status 137" in run.output
    assert "passed" not in run.output


@private_namespace.needs_namespace
def test_kill_all_ends_an_agent_of_the_same_user(folder: Path) -> None:
    run = run_kill_all(folder, PLACES["agent-user"])
    assert "status 6" in run.output
    assert re.search("^host there: (the connection ended|.*reset by peer)", run.output, re.M)
    found = run.get_testcase(corpus.KILL_ALL)
    assert found.outcome == corpus.ERROR
    assert "host lost: lost with there; no host came back within 5 s" in found.message
    assert len(run.results()) == len(run.programs)


@private_namespace.needs_namespace
def test_kill_all_twice_over_an_agent_that_is_started_again(folder: Path) -> None:
    run = run_kill_all(folder, NastyPlace(places.OTHER_USER, agent=True, restart=True))
    assert "status 6" in run.output
    assert "connected again later" in run.output
    found = run.get_testcase(corpus.KILL_ALL)
    assert found.outcome == corpus.ERROR
    assert "host lost: lost with there (twice)" in found.message
    results = run.results()
    assert len(results) == len(run.programs)
    assert corpus.PASSED in {each.outcome for each in results.values()}


@private_namespace.needs_namespace
@pytest.mark.parametrize("name", ["agent", "agent-user"])
def test_kill_all_in_a_pid_namespace_of_its_own_harms_nothing(name: str, folder: Path) -> None:
    place = PLACES[name]
    if not corpus.filter_runnable([NastyProgram("", corpus.PASSED, needs=("userns",))], place.user):
        pytest.skip("needs user namespaces")
    page = Path(__file__).parents[3] / "docs" / "isolation.md"
    assert f'run = "{OWN_PROCESSES}"' in page.read_text()
    run = run_kill_all(folder, place, OWN_PROCESSES)
    assert "status 0" in run.output
    assert {each.outcome for each in run.results().values()} == {corpus.PASSED}
