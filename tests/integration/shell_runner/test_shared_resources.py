"""Two runs at once on one host: its slots and locks are the host's, not theirs."""

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
from shell_runner.remote.execution import host_resources
from shell_runner.remote.protocol.model import Execution, Test
from tests.helpers.single_host_run import HostRun

#: Notes when it starts and ends, in one line each, and takes a moment.
NOTE = """\
#!/bin/sh
echo "+ $KIND" >> {log}
sleep {seconds}
echo "- $KIND" >> {log}
"""


class Town:
    """A host with a state folder of its own, where several runs are at work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.log.touch()
        self._runs = 0
        self._numbers = 1000

    def bench(self, slots: int, shared: bool = True) -> HostRun:
        self._runs += 1
        root = self.folder / f"run{self._runs}"
        root.mkdir()
        return HostRun(root, f"{slots}*popen", shared=shared, grace=0.2)

    def tests(
        self, bench: HostRun, count: int, kind: str = "plain", seconds: float = 0.05, **fields: Any
    ) -> list[Test]:
        """Each notes its start and its end in the log that all runs share."""
        path = bench.write(f"note{seconds}", NOTE.format(log=self.log, seconds=seconds))
        numbers = range(self._numbers, self._numbers + count)
        self._numbers += count
        return [Test(each, path, 30.0, env=(("KIND", kind),), **fields) for each in numbers]

    def peaks(self) -> dict[str, int]:
        """How many of each kind ran at once at most; ``all``: of all kinds."""
        running: dict[str, int] = {"all": 0}
        peaks: dict[str, int] = {"all": 0}
        for line in self.log.read_text().splitlines():
            sign, kind = line.split()
            for each in ("all", kind):
                running[each] = running.get(each, 0) + (1 if sign == "+" else -1)
                peaks[each] = max(peaks.get(each, 0), running[each])
        return peaks

    def beside(self, kind: str) -> int:
        """How many others ran beside one of that kind at most."""
        running, found = [], 0
        for line in self.log.read_text().splitlines():
            sign, each = line.split()
            running.append(each) if sign == "+" else running.remove(each)
            if kind in running:
                found = max(found, len(running) - 1)
        return found


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Town:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Town(tmp_path)


def feed(bench: HostRun, tests: Sequence[Test], at_once: int) -> dict[int, Execution]:
    """As a schedule does: a test more for each that has ended."""
    waiting, done = list(tests), {}
    bench.start(*waiting[:at_once])
    del waiting[:at_once]
    while len(done) < len(tests):
        done.update(bench.finish(1))
        if waiting:
            bench.start(waiting.pop(0))
    return done


def together(*jobs: tuple[HostRun, Sequence[Test], int]) -> list[list[float]]:
    """Feed several at once; when the tests of each ended, all of them green."""
    ends: list[list[float]] = [[] for _ in jobs]

    def work(number: int) -> None:
        done = feed(*jobs[number])
        assert all(each.exit_status == 0 for each in done.values())
        ends[number] = sorted(each.started_at + each.duration for each in done.values())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(ends), "a run has starved, or a test has failed"
    return ends


@pytest.mark.parametrize(("shared", "most"), [(True, [2, 3]), (False, [4, 5])])
def test_two_runs_use_no_more_slots_than_the_larger_one(
    town: Town, shared: bool, most: list[int]
) -> None:
    with town.bench(3, shared) as one, town.bench(2, shared) as two:
        together((one, town.tests(one, 20), 3), (two, town.tests(two, 20), 2))
    assert town.peaks()["all"] in most


def test_two_runs_share_a_slot_by_turns(town: Town) -> None:
    """The one that came second does not wait until the first one has finished."""
    with town.bench(1) as one, town.bench(1) as two:
        first, second = together((one, town.tests(one, 14), 1), (two, town.tests(two, 14), 1))
    assert town.peaks()["all"] == 1
    assert max(first[0], second[0]) < min(first[-1], second[-1])
    assert max(first[5], second[5]) < min(first[-1], second[-1])


def test_a_batch_of_short_tests_is_a_turn_too(town: Town) -> None:
    with town.bench(1) as one, town.bench(1) as two:
        many = [town.tests(each, 150, seconds=0.0, estimate=0.003) for each in (one, two)]
        first, second = together((one, many[0], 150), (two, many[1], 150))
    assert town.peaks()["all"] == 1
    assert max(first[0], second[0]) < min(first[-1], second[-1])


def test_tests_that_take_longer_than_expected_are_no_turn_together(town: Town) -> None:
    """They were given to the slot in one batch, as tests of a millisecond are."""
    with town.bench(1) as one, town.bench(1) as two:
        slow = town.tests(one, 8, seconds=0.3, estimate=0.001)
        one.start(*slow)
        await_first(town)
        (test,) = town.tests(two, 1)
        ended = two.run_test(test)
        done = one.finish(len(slow))
    after = [each for each in done.values() if each.started_at > ended.started_at]
    assert len(after) >= 4
    assert [each.id for each in slow] == sorted(done, key=lambda id: done[id].started_at)
    assert town.peaks()["all"] == 1


def test_a_lock_of_the_host_excludes_the_other_run(town: Town) -> None:
    with town.bench(2) as one, town.bench(2) as two:
        jobs = []
        for bench in (one, two):
            locked = town.tests(bench, 6, kind="gpu", locks=("gpu/0",))
            jobs.append((bench, [*locked, *town.tests(bench, 6)], 2))
        together(*jobs)
    peaks = town.peaks()
    assert (peaks["gpu"], peaks["all"]) == (1, 2)


def test_others_overtake_a_test_whose_lock_another_run_holds(town: Town) -> None:
    with town.bench(2) as one, town.bench(2) as two:
        (holder,) = town.tests(one, 1, seconds=1.5, locks=("gpu",))
        one.start(holder)
        await_first(town)
        (locked,), plain = town.tests(two, 1, locks=("gpu",)), town.tests(two, 3)
        two.start(locked, *plain)
        done = two.finish(4)
        held = one.finish(1)[holder.id]
    assert list(done) == [*(each.id for each in plain), locked.id]
    assert done[locked.id].started_at >= held.started_at + held.duration
    assert done[locked.id].duration < 1.0  # to wait is no time of the test's


def test_a_serial_test_is_alone_among_all_runs(town: Town) -> None:
    with town.bench(2) as one, town.bench(2) as two:
        serial = town.tests(two, 3, kind="serial", serial=True)
        together((one, town.tests(one, 30), 2), (two, serial, 1))
    assert town.peaks()["all"] == 2
    assert town.beside("serial") == 0


def test_serial_tests_of_two_runs_take_turns(town: Town) -> None:
    with town.bench(2) as one, town.bench(2) as two:
        jobs = [(each, town.tests(each, 4, kind="serial", serial=True), 1) for each in (one, two)]
        together(*jobs)
    assert town.peaks()["all"] == 1


def test_a_timeout_counts_from_the_start_and_not_from_the_wait(town: Town) -> None:
    with town.bench(1) as one, town.bench(1) as two:
        (holder,) = town.tests(one, 1, seconds=1.2)
        one.start(holder)
        await_first(town)
        (short,) = town.tests(two, 1)
        execution = two.run_test(short._replace(timeout=0.8))
        held = one.finish(1)[holder.id]
    assert execution.exit_status == 0
    assert not execution.timed_out
    assert execution.started_at >= held.started_at + held.duration


def test_what_a_killed_run_held_is_free_for_the_others(town: Town) -> None:
    go = town.folder / "go"
    kill = f"""#!/bin/sh
echo "+ killer" >> {town.log}
until [ -e {go} ]; do sleep 0.02; done
kill -9 $(ps -o ppid= -p $PPID)
"""
    with town.bench(1) as one, town.bench(1) as two:
        one.start(one.new_test(kill, locks=("gpu",)))
        await_first(town)
        (test,) = town.tests(two, 1, locks=("gpu",))
        two.start(test)
        assert two.fleet.events.empty()
        go.touch()
        assert two.finish(1)[test.id].exit_status == 0


def test_a_slot_that_dies_frees_the_locks_of_its_test(town: Town) -> None:
    with town.bench(1) as one, town.bench(1) as two:
        killed = one.run("#!/bin/sh\nkill -9 $PPID\nsleep 60", locks=("gpu",), serial=True)
        assert killed.problem == "slot-died"
        assert two.run_test(town.tests(two, 1, locks=("gpu",))[0]).exit_status == 0


def test_a_run_that_waits_says_so(town: Town) -> None:
    with town.bench(1) as one, town.bench(1) as two:
        one.start(*town.tests(one, 1, seconds=60))
        await_first(town)
        begin = time.monotonic()
        two.start(*town.tests(two, 1))
        event = two.fleet.events.get(timeout=20)
        assert isinstance(event, FrameReceived)
        assert event.host.unpack_messages(event.frame) == [["waiting", host_resources.SLOTS, ""]]
        assert 4.5 < time.monotonic() - begin < 10


def test_a_host_without_a_home_says_where_its_locks_are(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    (town.folder / "tmp").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(town.log))
    monkeypatch.setenv("TMPDIR", str(town.folder / "tmp"))
    with town.bench(1) as one:
        assert str(town.folder / "tmp") in one.host.facts.note
        assert all(each.exit_status == 0 for each in feed(one, town.tests(one, 2), 1).values())
    (folder,) = (town.folder / "tmp").glob(".nosejobs-state-*")
    shutil.rmtree(folder)
    folder.symlink_to(town.folder)
    with pytest.raises(HostOpenError, match=r"no folder can hold the locks .*/log/nosejobs: Not a"):
        town.bench(1).__enter__()


def await_first(town: Town) -> None:
    """Until a test has started."""
    deadline = time.monotonic() + 20
    while not town.log.read_text():
        assert time.monotonic() < deadline, "no test has started"
        time.sleep(0.01)
