"""Tests of the resources that several runs on one host share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shell_runner.remote.execution import resource_locks
from shell_runner.remote.execution.resource_locks import (
    ALONE,
    LOCK,
    SLOTS,
    HostResources,
    SharedHostResources,
    UnavailableResource,
)
from shell_runner.remote.files.state_dirs import encode_file_name

#: A program that acquires a slot and a lock, reports that, and keeps running.
HOLD = """\
import sys, time
from shell_runner.remote.execution.resource_locks import SharedHostResources
run = SharedHostResources(sys.argv[1])
assert run.acquire_slot([0]) == 0
assert run.acquire_for_test(1, [1], ["gpu"], False) == 1
print("held", flush=True)
time.sleep(60)
"""
#: Number of rounds in which each run tries to start a test.
ROUNDS = 60

Open = Callable[[], SharedHostResources]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Open]:
    """Return a function that creates the resources of another run on the host."""
    runs_made: list[SharedHostResources] = []

    def make() -> SharedHostResources:
        runs_made.append(SharedHostResources(str(tmp_path / "host")))
        return runs_made[-1]

    yield make
    for each in runs_made:
        each.close()


@pytest.fixture
def no_hold_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make runs release a resource as soon as another run waits for it."""
    monkeypatch.setattr(resource_locks, "MIN_HOLD_TIME", 0.0)
    monkeypatch.setattr(resource_locks, "POLL_INTERVAL", 0.0)


def finish_round(one: SharedHostResources, *busy: int) -> UnavailableResource | None:
    one.finish_round(busy)
    return one.unavailable


# -- slots --------------------------------------------------------------------------


def test_a_private_host_has_always_room() -> None:
    own = HostResources()
    assert own.acquire_slot([3, 1]) == own.acquire_for_test(1, [3], ["a"], True) == 3
    assert own.acquire_slot([]) is own.acquire_for_test(1, [], [], False) is None
    own.release_test(1)
    own.finish_round([3])
    own.close()
    assert own.unavailable is None


def test_two_runs_never_use_one_slot_at_once(run: Open) -> None:
    one, two = run(), run()
    assert one.acquire_slot([0]) == 0
    assert finish_round(one, 0) is None
    assert two.acquire_slot([0]) is None
    assert finish_round(two) == UnavailableResource(SLOTS)


def test_two_runs_use_no_more_than_the_larger_number_together(run: Open) -> None:
    small, large = run(), run()
    assert [small.acquire_slot([number]) for number in range(2)] == [0, 1]
    assert [large.acquire_slot([number]) for number in range(4)] == [None, None, 2, 3]


def test_the_first_slot_that_is_free_is_taken(run: Open) -> None:
    one, two = run(), run()
    assert one.acquire_slot([1]) == 1
    assert two.acquire_slot([1, 0]) == 0
    assert finish_round(two, 0) == UnavailableResource(SLOTS)  # the other one is still wanted


def test_a_slot_that_is_not_busy_is_released(run: Open) -> None:
    one, two = run(), run()
    one.acquire_slot([0])
    one.finish_round([])
    assert two.acquire_slot([0]) == 0


def test_a_run_keeps_its_slot_for_the_minimum_hold_time(
    run: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource_locks, "MIN_HOLD_TIME", 3600.0)
    one, two = run(), run()
    for _ in range(3):
        assert one.acquire_slot([0]) == 0
        one.finish_round([0])
        assert two.acquire_slot([0]) is None
        two.finish_round([])


@pytest.mark.usefixtures("no_hold_time")
def test_a_run_releases_a_slot_when_another_one_waits(run: Open) -> None:
    one, two = run(), run()
    assert one.acquire_slot([0]) == one.acquire_slot([0]) == 0
    one.finish_round([0])
    assert two.acquire_slot([0]) is None
    two.finish_round([])
    assert one.acquire_slot([0]) is None
    assert finish_round(one, 0) == UnavailableResource(SLOTS)  # it is still busy
    assert two.acquire_slot([0]) is None
    two.finish_round([])
    one.finish_round([])
    assert one.acquire_slot([0]) is None  # not before the other one
    one.finish_round([])
    assert two.acquire_slot([0]) == 0


@pytest.mark.usefixtures("no_hold_time")
def test_a_run_that_no_longer_tries_does_not_block_others(run: Open) -> None:
    one, two = run(), run()
    one.acquire_slot([0])
    assert two.acquire_slot([0]) is None
    two.finish_round([])
    two.finish_round([])  # nothing was asked since
    assert one.acquire_slot([0]) == 0
    one.finish_round([])
    assert one.acquire_slot([0]) == 0


@pytest.mark.usefixtures("no_hold_time")
@pytest.mark.parametrize("count", [2, 3])
def test_every_run_gets_its_share_of_a_slot(run: Open, count: int) -> None:
    runs = [run() for _ in range(count)]
    turns = [0] * count
    for _ in range(ROUNDS):
        for number, one in enumerate(runs):
            turns[number] += one.acquire_slot([0]) == 0
            one.finish_round([])
    assert min(turns) >= ROUNDS // count // 2, turns


# -- locks --------------------------------------------------------------------------


def test_a_lock_is_held_by_one_test_until_it_ends(run: Open) -> None:
    one, two = run(), run()
    assert one.acquire_for_test(1, [0], ["gpu"], False) == 0
    one.finish_round([0])
    assert two.acquire_for_test(7, [1], ["gpu"], False) is None
    assert finish_round(two) == UnavailableResource(LOCK, "gpu")
    assert two.acquire_slot([1]) == 1  # others overtake it
    one.release_test(1)
    assert two.acquire_for_test(7, [2], ["gpu"], False) == 2


def test_a_run_does_not_take_its_own_lock_twice(run: Open) -> None:
    one = run()
    assert one.acquire_for_test(1, [0], ["gpu"], False) == 0
    assert one.acquire_for_test(2, [1], ["gpu"], False) is None
    assert finish_round(one, 0) is None  # no other run is to blame
    one.release_test(1)
    assert one.acquire_for_test(2, [1], ["gpu"], False) == 1


def test_a_lock_goes_to_the_waiting_run_and_not_to_its_last_holder(run: Open) -> None:
    one, two = run(), run()
    one.acquire_for_test(1, [0], ["gpu"], False)
    assert two.acquire_for_test(1, [1], ["gpu"], False) is None
    two.finish_round([])
    one.release_test(1)
    assert one.acquire_for_test(2, [0], ["gpu"], False) is None
    one.finish_round([])
    assert two.acquire_for_test(1, [1], ["gpu"], False) == 1


def test_a_lock_is_waited_for_while_no_slot_is_free(run: Open) -> None:
    one, two = run(), run()
    one.acquire_for_test(1, [0], ["gpu"], False)
    assert two.acquire_for_test(1, [], ["gpu"], False) is None
    two.finish_round([])
    one.release_test(1)
    one.finish_round([])
    assert two.acquire_for_test(1, [], ["gpu"], False) is None
    two.finish_round([])
    assert one.acquire_for_test(2, [0], ["gpu"], False) is None
    assert two.acquire_for_test(1, [1], ["gpu"], False) == 1


def test_tests_with_the_same_locks_do_not_deadlock(run: Open) -> None:
    one, two, three = run(), run(), run()
    three.acquire_for_test(1, [0], ["b"], False)
    wanted = {"one": (one, ["b", "a"]), "two": (two, ["a", "b"])}
    for turn in range(5):
        for name, (each, locks) in list(wanted.items()):
            if each.acquire_for_test(1, [1], locks, False) is not None:
                each.release_test(1)
                del wanted[name]
            each.finish_round([])
        if turn == 1:
            three.release_test(1)
    assert not wanted


# -- serial tests --------------------------------------------------------------------------


def test_nothing_runs_beside_a_serial_test(run: Open) -> None:
    one, two = run(), run()
    assert one.acquire_for_test(1, [0], [], True) == 0
    one.finish_round([0])
    assert one.acquire_slot([1]) is None
    assert two.acquire_slot([1]) is None
    assert finish_round(two) == UnavailableResource(ALONE)
    assert two.acquire_for_test(1, [1], [], True) is None
    two.finish_round([])
    one.release_test(1)
    one.finish_round([])
    assert two.acquire_for_test(1, [1], [], True) == 1


@pytest.mark.usefixtures("no_hold_time")
def test_a_serial_test_starts_before_waiting_tests_of_others(run: Open) -> None:
    one, two, three = run(), run(), run()
    assert one.acquire_slot([0]) == 0
    one.finish_round([0])
    assert two.acquire_for_test(1, [0], [], True) is None
    assert finish_round(two) == UnavailableResource(ALONE)
    assert one.acquire_slot([1]) is None
    assert three.acquire_slot([2]) is None
    one.finish_round([])
    three.finish_round([])
    assert two.acquire_for_test(1, [0], [], True) == 0
    two.finish_round([0])
    assert one.acquire_slot([0]) is three.acquire_slot([2]) is None
    one.finish_round([])
    three.finish_round([])
    two.release_test(1)
    assert two.acquire_for_test(2, [0], [], True) is None  # the others have waited
    two.finish_round([])
    assert one.acquire_slot([0]) == 0
    assert three.acquire_slot([2]) == 2


@pytest.mark.usefixtures("no_hold_time")
def test_a_run_that_waits_for_a_slot_does_not_block_a_serial_test(run: Open) -> None:
    one, two, three = run(), run(), run()
    one.acquire_slot([0])
    assert two.acquire_slot([0]) is None  # is next for the slot
    two.finish_round([])
    assert three.acquire_for_test(1, [0], [], True) is None
    three.finish_round([])
    one.finish_round([])
    assert three.acquire_for_test(1, [0], [], True) == 0


# -- processes ----------------------------------------------------------------------


def test_locks_of_a_killed_run_are_released(run: Open, tmp_path: Path) -> None:
    one = run()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "host")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert one.acquire_slot([0, 1]) is one.acquire_for_test(1, [2], ["gpu"], False) is None
        one.finish_round([])
        other.kill()
        other.wait()
    assert one.acquire_slot([0]) == 0
    assert one.acquire_for_test(1, [1], ["gpu"], False) == 1


def test_child_processes_do_not_hold_released_locks(run: Open, tmp_path: Path) -> None:
    one, two = SharedHostResources(str(tmp_path / "host")), run()
    one.acquire_for_test(1, [0], ["gpu"], False)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        one.close()
        assert two.acquire_for_test(1, [0], ["gpu"], False) == 0
        assert child.poll() is None


# -- files --------------------------------------------------------------------------


@example(["\ud800\udc00", "\U00010000", "\udcff", "\xff"])
@given(st.lists(st.text(st.characters(codec=None), min_size=1), min_size=2, unique=True))
def test_every_name_has_a_safe_file_of_its_own(names: list[str]) -> None:
    files = {encode_file_name(name) for name in names}
    assert len(files) == len(names)
    assert all("/" not in each and "\0" not in each and len(each) < 240 for each in files)


def test_any_text_can_name_a_lock(run: Open, tmp_path: Path) -> None:
    one, two = run(), run()
    for name in ("..", "a/../../b", "\udcff", "x" * 5000, " ", "-", "a\nb"):
        assert one.acquire_for_test(1, [0], [name], False) == 0
        assert two.acquire_for_test(1, [1], [name], False) is None
        one.release_test(1)
    assert [path.name for path in tmp_path.iterdir()] == ["host"]
    assert {path.name for path in (tmp_path / "host").iterdir()} >= {"slots", "locks"}


def test_unused_locks_cost_no_descriptors(run: Open) -> None:
    one = run()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        assert one.acquire_for_test(number, [0], [f"lock{number}"], False) == 0
        one.release_test(number)
        one.finish_round([])
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_the_state_of_a_host_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "nosejobs").mkdir(0o755)
    one = resource_locks.open_shared_resources()
    one.close()
    assert one.note == ""
    assert (tmp_path / "nosejobs").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "nosejobs" / "hosts" / os.uname().nodename / "slots").is_dir()


def test_without_a_home_the_state_is_in_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    one = resource_locks.open_shared_resources()
    one.close()
    folder = tmp_path / f".nosejobs-state-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert str(folder) in one.note
    assert "Not a directory" in one.note


def test_a_folder_of_another_user_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f".nosejobs-state-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(OSError, match="no folder can hold the locks of this host"):
        resource_locks.open_shared_resources()
