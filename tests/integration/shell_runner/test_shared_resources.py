"""Tests of several runs on one host, which share its slots and locks."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shell_runner.errors import HostOpenError
from shell_runner.hosts.fleet import FrameReceived
from shell_runner.remote.execution import resource_locks
from shell_runner.remote.protocol.model import Execution, Test
from tests.helpers.single_host_run import HostRun

#: A program that logs its start and its end in one line each, and sleeps between them.
LOGGING_PROGRAM = """\
#!/bin/sh
echo "+ $KIND" >> {log}
sleep {seconds}
echo "- $KIND" >> {log}
"""


class SharedHost:
    """A host with its own state folder, on which several runs are active."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.log.touch()
        self._runs = 0
        self._numbers = 1000

    def new_run(self, slots: int, shared: bool = True) -> HostRun:
        self._runs += 1
        root = self.folder / f"run{self._runs}"
        root.mkdir()
        return HostRun(root, f"{slots}*popen", shared_resources=shared, grace=0.2)

    def tests(
        self,
        host_run: HostRun,
        count: int,
        kind: str = "plain",
        seconds: float = 0.05,
        **fields: Any,
    ) -> list[Test]:
        """Return tests that log their start and end in the log of the host."""
        path = host_run.write(
            f"log_{seconds}", LOGGING_PROGRAM.format(log=self.log, seconds=seconds)
        )
        numbers = range(self._numbers, self._numbers + count)
        self._numbers += count
        return [Test(number, path, 30.0, env=(("KIND", kind),), **fields) for number in numbers]

    def peaks(self) -> dict[str, int]:
        """Return the maximum number of tests that ran at once, by kind and for ``all`` kinds."""
        running: dict[str, int] = {"all": 0}
        peaks: dict[str, int] = {"all": 0}
        for line in self.log.read_text().splitlines():
            sign, kind = line.split()
            for key in ("all", kind):
                running[key] = running.get(key, 0) + (1 if sign == "+" else -1)
                peaks[key] = max(peaks.get(key, 0), running[key])
        return peaks

    def peak_beside(self, kind: str) -> int:
        """Return the maximum number of tests that ran beside one of that kind."""
        running, peak = [], 0
        for line in self.log.read_text().splitlines():
            sign, other = line.split()
            running.append(other) if sign == "+" else running.remove(other)
            if kind in running:
                peak = max(peak, len(running) - 1)
        return peak


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SharedHost:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return SharedHost(tmp_path)


def run_in_turn(host_run: HostRun, tests: Sequence[Test], at_once: int) -> dict[int, Execution]:
    """Run tests as a scheduler does: start one whenever another has ended."""
    waiting, done = list(tests), {}
    host_run.start(*waiting[:at_once])
    del waiting[:at_once]
    while len(done) < len(tests):
        done.update(host_run.finish(1))
        if waiting:
            host_run.start(waiting.pop(0))
    return done


def run_together(*jobs: tuple[HostRun, Sequence[Test], int]) -> list[list[float]]:
    """Run the tests of several runs at once; return the sorted end times of the tests of each.

    All tests must pass.
    """
    ends: list[list[float]] = [[] for _ in jobs]

    def work(number: int) -> None:
        done = run_in_turn(*jobs[number])
        assert all(each.exit_status == 0 for each in done.values())
        ends[number] = sorted(each.started_at + each.duration for each in done.values())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(ends), "a run got no slot, or a test failed"
    return ends


@pytest.mark.parametrize(("shared", "most"), [(True, [2, 3]), (False, [4, 5])])
def test_two_runs_use_no_more_slots_than_the_larger_one(
    host: SharedHost, shared: bool, most: list[int]
) -> None:
    with host.new_run(3, shared) as one, host.new_run(2, shared) as two:
        run_together((one, host.tests(one, 20), 3), (two, host.tests(two, 20), 2))
    assert host.peaks()["all"] in most


def test_two_runs_share_a_slot_by_turns(host: SharedHost) -> None:
    """The second run does not wait until the first one has finished."""
    with host.new_run(1) as one, host.new_run(1) as two:
        first, second = run_together((one, host.tests(one, 14), 1), (two, host.tests(two, 14), 1))
    assert host.peaks()["all"] == 1
    assert max(first[0], second[0]) < min(first[-1], second[-1])
    assert max(first[5], second[5]) < min(first[-1], second[-1])


def test_a_batch_of_short_tests_is_a_turn_too(host: SharedHost) -> None:
    with host.new_run(1) as one, host.new_run(1) as two:
        many = [host.tests(each, 150, seconds=0.0, estimate=0.003) for each in (one, two)]
        first, second = run_together((one, many[0], 150), (two, many[1], 150))
    assert host.peaks()["all"] == 1
    assert max(first[0], second[0]) < min(first[-1], second[-1])


def test_tests_that_take_longer_than_expected_are_no_turn_together(host: SharedHost) -> None:
    """The tests were assigned to the slot in one batch, as tests of a millisecond are."""
    with host.new_run(1) as one, host.new_run(1) as two:
        slow = host.tests(one, 8, seconds=0.3, estimate=0.001)
        one.start(*slow)
        wait_for_first_start(host)
        (test,) = host.tests(two, 1)
        ended = two.run_test(test)
        done = one.finish(len(slow))
    after = [each for each in done.values() if each.started_at > ended.started_at]
    assert len(after) >= 4
    assert [each.id for each in slow] == sorted(done, key=lambda id: done[id].started_at)
    assert host.peaks()["all"] == 1


def test_a_lock_of_the_host_excludes_the_other_run(host: SharedHost) -> None:
    with host.new_run(2) as one, host.new_run(2) as two:
        jobs = []
        for host_run in (one, two):
            locked = host.tests(host_run, 6, kind="gpu", locks=("gpu/0",))
            jobs.append((host_run, [*locked, *host.tests(host_run, 6)], 2))
        run_together(*jobs)
    peaks = host.peaks()
    assert (peaks["gpu"], peaks["all"]) == (1, 2)


def test_others_overtake_a_test_whose_lock_another_run_holds(host: SharedHost) -> None:
    with host.new_run(2) as one, host.new_run(2) as two:
        (holder,) = host.tests(one, 1, seconds=1.5, locks=("gpu",))
        one.start(holder)
        wait_for_first_start(host)
        (locked,), plain = host.tests(two, 1, locks=("gpu",)), host.tests(two, 3)
        two.start(locked, *plain)
        done = two.finish(4)
        held = one.finish(1)[holder.id]
    assert list(done) == [*(each.id for each in plain), locked.id]
    assert done[locked.id].started_at >= held.started_at + held.duration
    assert done[locked.id].duration < 1.0  # waiting does not count as duration


def test_a_serial_test_is_alone_among_all_runs(host: SharedHost) -> None:
    with host.new_run(2) as one, host.new_run(2) as two:
        serial = host.tests(two, 3, kind="serial", serial=True)
        run_together((one, host.tests(one, 30), 2), (two, serial, 1))
    assert host.peaks()["all"] == 2
    assert host.peak_beside("serial") == 0


def test_serial_tests_of_two_runs_take_turns(host: SharedHost) -> None:
    with host.new_run(2) as one, host.new_run(2) as two:
        jobs = [(each, host.tests(each, 4, kind="serial", serial=True), 1) for each in (one, two)]
        run_together(*jobs)
    assert host.peaks()["all"] == 1


def test_a_timeout_counts_from_the_start_and_not_from_the_wait(host: SharedHost) -> None:
    with host.new_run(1) as one, host.new_run(1) as two:
        (holder,) = host.tests(one, 1, seconds=1.2)
        one.start(holder)
        wait_for_first_start(host)
        (short,) = host.tests(two, 1)
        execution = two.run_test(short._replace(timeout=0.8))
        held = one.finish(1)[holder.id]
    assert execution.exit_status == 0
    assert not execution.timed_out
    assert execution.started_at >= held.started_at + held.duration


def test_what_a_killed_run_held_is_free_for_the_others(host: SharedHost) -> None:
    go = host.folder / "go"
    kill = f"""#!/bin/sh
echo "+ killer" >> {host.log}
until [ -e {go} ]; do sleep 0.02; done
kill -9 $(ps -o ppid= -p $PPID)
"""
    with host.new_run(1) as one, host.new_run(1) as two:
        one.start(one.new_test(kill, locks=("gpu",)))
        wait_for_first_start(host)
        (test,) = host.tests(two, 1, locks=("gpu",))
        two.start(test)
        assert two.fleet.events.empty()
        go.touch()
        assert two.finish(1)[test.id].exit_status == 0


def test_a_slot_that_dies_frees_the_locks_of_its_test(host: SharedHost) -> None:
    with host.new_run(1) as one, host.new_run(1) as two:
        killed = one.run("#!/bin/sh\nkill -9 $PPID\nsleep 60", locks=("gpu",), serial=True)
        assert killed.problem == "slot-died"
        assert two.run_test(host.tests(two, 1, locks=("gpu",))[0]).exit_status == 0


def test_a_run_that_waits_says_so(host: SharedHost) -> None:
    with host.new_run(1) as one, host.new_run(1) as two:
        one.start(*host.tests(one, 1, seconds=60))
        wait_for_first_start(host)
        begin = time.monotonic()
        two.start(*host.tests(two, 1))
        event = two.fleet.events.get(timeout=20)
        assert isinstance(event, FrameReceived)
        assert event.host.unpack_messages(event.frame) == [["waiting", resource_locks.SLOTS, ""]]
        assert 4.5 < time.monotonic() - begin < 10


def test_a_host_without_a_home_says_where_its_locks_are(
    host: SharedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host.folder / "tmp").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(host.log))
    monkeypatch.setenv("TMPDIR", str(host.folder / "tmp"))
    with host.new_run(1) as one:
        assert str(host.folder / "tmp") in one.host.facts.note
        assert all(
            each.exit_status == 0 for each in run_in_turn(one, host.tests(one, 2), 1).values()
        )
    (folder,) = (host.folder / "tmp").glob(".nosejobs-state-*")
    shutil.rmtree(folder)
    folder.symlink_to(host.folder)
    with pytest.raises(HostOpenError, match=r"no folder can hold the locks .*/log/nosejobs: Not a"):
        host.new_run(1).__enter__()


def wait_for_first_start(host: SharedHost) -> None:
    """Wait until a test has started."""
    deadline = time.monotonic() + 20
    while not host.log.read_text():
        assert time.monotonic() < deadline, "no test has started"
        time.sleep(0.01)
