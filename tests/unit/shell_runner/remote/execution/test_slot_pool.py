"""The tests that a slot pool assigns and the reports to its listener, with fake slots."""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shell_runner.remote.execution import slot_pool
from shell_runner.remote.execution.artifacts import ArtifactPiece
from shell_runner.remote.execution.resource_locks import SLOTS, HostResources, UnavailableResource
from shell_runner.remote.execution.slot_messages import SlotMessage
from shell_runner.remote.execution.slot_pool import SlotPool, SlotStartError
from shell_runner.remote.protocol.model import Execution, Problem, Setup, Test

NO_TEST = Test(-1, "")


class FakeSlot:
    """A fake slot process, which sends the messages that a test passes to ``say``."""

    def __init__(self, number: int, *_: Any) -> None:
        self.number = number
        self.assigned: deque[Test] = deque()
        self.batches: list[list[int]] = []
        self.messages: list[SlotMessage] = []
        self.finished_count = 0
        self.active_since = 0.0
        self.recalled: list[Test] = []
        self.asked: list[int] = []
        self.calls: list[str] = []
        self.has_retired = False
        self.is_alive = True
        self.socket, self.theirs = socket.socketpair()
        self.process: Any = self
        self.pid = -1

    @property
    def load(self) -> float:
        return sum(1.0 if test.estimate is None else test.estimate for test in self.assigned)

    def assign(self, tests: list[Test]) -> None:
        self.assigned.extend(tests)
        self.batches.append([test.id for test in tests])

    def request_return(self, numbers: list[int]) -> None:
        self.asked += numbers

    def request_recall(self) -> None:
        self.calls.append("request_recall")

    def check_liveness(self, _: float) -> None:
        self.calls.append("check_liveness")

    def read(self) -> tuple[list[SlotMessage], bool]:
        self.socket.recv(1000)
        messages, self.messages = self.messages, []
        return messages, self.is_alive

    def request_stop(self) -> None:
        self.theirs.close()

    def wait_until_dead(self) -> None:
        pass

    def reap(self) -> str:
        self.socket.close()
        self.theirs.close()
        return "killed by SIGKILL"

    # -- controlled by the test --

    def say(self, *messages: SlotMessage) -> None:
        self.messages += messages
        self.theirs.send(b"x")

    def finish(self, **fields: Any) -> None:
        """Finish the running test."""
        test = self.assigned.popleft()
        self.finished_count += 1
        row = json.dumps(Execution(test.id, test.attempt, exit_status=0, **fields)).encode()
        self.say(SlotMessage("done", test, row=row))

    def die(self) -> None:
        self.is_alive = False
        self.theirs.close()


class RecordingListener:
    """Records its events."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.flushes = 0

    def on_running(self, test: Test, slot: int) -> None:
        self.events.append(("running", test.id, slot))

    def on_output(self, test: Test, line: str) -> None:
        self.events.append(("line", test.id, line))

    def on_artifact(self, test: Test, piece: ArtifactPiece) -> None:
        self.events.append(("artifact", test.id, *piece))

    def on_result(self, test: Test, row: bytes) -> None:
        execution = Execution(*json.loads(row))
        self.events.append(("result", test.id, execution.problem or execution.exit_status))

    def on_returned(self, numbers: list[int]) -> None:
        self.events.append(("returned", numbers))

    def on_waiting(self, resource: UnavailableResource) -> None:
        self.events.append(("waiting", *resource))

    def flush(self) -> None:
        self.flushes += 1


class FakeResources(HostResources):
    """Resources of which some are unavailable, with a record of the requests."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.wanted: list[int] = []
        #: Locks that another run holds.
        self.held: set[str] = set()
        self.is_closed = False

    def acquire_slot(self, slots: Any) -> int | None:
        return None if self.unavailable else super().acquire_slot(slots)

    def acquire_for_test(self, test: int, slots: Any, locks: Any, alone: bool) -> int | None:
        return (
            None if self.held & set(locks) else super().acquire_for_test(test, slots, locks, alone)
        )

    def release_test(self, test: int) -> None:
        self.ended.append(test)

    def is_slot_wanted(self, slot: int) -> bool:
        return slot in self.wanted

    def close(self) -> None:
        self.is_closed = True


class PoolFixture:
    """A slot pool with fake slots, a recording listener and fake resources."""

    def __init__(self, folder: Path) -> None:
        self.slots: list[FakeSlot] = []
        self.listener = RecordingListener()
        self.resources = FakeResources()
        self.wake_read, self.wake_write = os.pipe()
        self.pool = SlotPool(self.listener, str(folder), self.wake_read)

    def start(self, slots: int) -> None:
        self.pool.start(Setup("/", slots=slots), self.resources)

    def add(self, *numbers: int, **fields: Any) -> None:
        self.pool.add(Test(number, "x", **fields) for number in numbers)

    def turn(self) -> list[tuple[Any, ...]]:
        """Let the pool do its pending work; return the events of the listener."""
        os.write(self.wake_write, b"x")
        ready = self.pool.wait()
        os.read(self.wake_read, 1)
        self.pool.process(ready)
        events, self.listener.events = self.listener.events, []
        return events


@pytest.fixture
def fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolFixture]:
    fixture = PoolFixture(tmp_path)

    def make(*arguments: Any) -> FakeSlot:
        fixture.slots.append(FakeSlot(*arguments))
        return fixture.slots[-1]

    monkeypatch.setattr(slot_pool, "SlotHandle", make)
    monkeypatch.setattr(slot_pool, "_GATHER_DELAY", 0.0)
    monkeypatch.setattr(slot_pool, "_kill_orphans", list)  # not children of the test process
    yield fixture
    fixture.pool.close()
    os.close(fixture.wake_read)
    os.close(fixture.wake_write)


# -- waiting tests ----------------------------------------------------------------


def test_a_test_of_unknown_duration_is_assigned_alone(fixture: PoolFixture) -> None:
    fixture.start(2)
    fixture.add(1, 2, 3)
    fixture.turn()
    assert [slot.batches for slot in fixture.slots] == [[[1]], [[2]]]
    fixture.slots[1].finish()
    assert fixture.turn() == [("result", 2, 0)]
    assert [slot.batches for slot in fixture.slots] == [[[1]], [[2], [3]]]


def test_tiny_tests_are_assigned_in_limited_batches(fixture: PoolFixture) -> None:
    fixture.start(2)
    fixture.add(*range(200), estimate=0.001)
    fixture.turn()
    sizes = [len(slot.assigned) for slot in fixture.slots]
    assert all(1 < size <= slot_pool._MAX_QUEUED_TESTS for size in sizes)
    assert fixture.slots[0].batches[0][0] == 0


def test_a_few_tiny_tests_are_distributed(fixture: PoolFixture) -> None:
    fixture.start(2)
    fixture.add(*range(4), estimate=0.001)
    fixture.turn()
    assert all(slot.assigned for slot in fixture.slots)


def test_tests_added_by_the_listener_are_assigned_without_another_event(
    fixture: PoolFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture.start(1)
    monkeypatch.setattr(fixture.listener, "flush", lambda: fixture.add(1))
    fixture.turn()
    assert fixture.slots[0].batches == []
    fixture.pool.process(fixture.pool.wait())  # does not wait
    assert fixture.slots[0].batches == [[1]]


def test_a_serial_test_waits_until_all_slots_are_idle(fixture: PoolFixture) -> None:
    fixture.start(2)
    fixture.add(1)
    fixture.turn()
    fixture.add(2, serial=True)
    fixture.add(3)
    fixture.turn()
    assert [slot.batches for slot in fixture.slots] == [[[1]], []], "3 would delay 2"
    fixture.slots[0].finish()
    fixture.turn()
    assert fixture.slots[0].batches == [[1], [2]]
    fixture.slots[0].finish()
    fixture.turn()
    assert fixture.resources.ended == [2]


def test_a_test_that_waits_for_a_lock_does_not_stop_others(fixture: PoolFixture) -> None:
    fixture.resources.held = {"gpu"}
    fixture.start(1)
    fixture.add(1, locks=("gpu",))
    fixture.add(2)
    fixture.turn()
    assert fixture.slots[0].batches == [[2]]
    fixture.resources.held = set()
    fixture.slots[0].finish()
    fixture.turn()
    assert fixture.slots[0].batches == [[2], [1]]


def test_waiting_tests_are_withdrawn_and_slots_are_asked_for_the_rest(fixture: PoolFixture) -> None:
    fixture.start(1)
    fixture.add(*range(1, 40), estimate=0.001)
    fixture.turn()
    given = [test.id for test in fixture.slots[0].assigned]
    assert given[:2] == [1, 2]
    fixture.add(50, locks=("gpu",))
    assert fixture.pool.withdraw([1, 2, 39, 50, 77]) == [39, 50]
    assert fixture.slots[0].asked == [2], "the first one is running"
    fixture.slots[0].say(SlotMessage("returned", NO_TEST, [[2]]))
    assert fixture.turn() == [("returned", [2])]


def test_recalled_tests_are_assigned_first(fixture: PoolFixture) -> None:
    fixture.start(1)
    fixture.add(*range(1, 40), estimate=0.001)
    fixture.turn()
    slot = fixture.slots[0]
    fixture.resources.wanted = [0]
    fixture.turn()
    assert "request_recall" in slot.calls
    slot.recalled = list(slot.assigned)[1:]
    slot.assigned = deque(list(slot.assigned)[:1])
    slot.finish()
    fixture.turn()
    assert slot.batches[1][0] == 2


def test_the_listener_is_told_periodically_that_tests_wait(
    fixture: PoolFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    fixture.resources.unavailable = UnavailableResource(SLOTS)
    fixture.start(1)
    fixture.add(1)
    events = []
    for _ in range(40):
        events += [(now, event) for event in fixture.turn()]
        now += 1.0
    assert events == [(1005.0, ("waiting", SLOTS, "")), (1035.0, ("waiting", SLOTS, ""))]


# -- reports ----------------------------------------------------------------------


def test_events_are_reported_in_order_and_flushed_once_per_turn(fixture: PoolFixture) -> None:
    fixture.start(1)
    fixture.add(1)
    fixture.turn()
    slot, before = fixture.slots[0], fixture.listener.flushes
    test = slot.assigned[0]
    slot.say(SlotMessage("running", test, [1, 0.0]), SlotMessage("line", test, [1, "hello"]))
    slot.finish()
    assert fixture.turn() == [("running", 1, 0), ("line", 1, "hello"), ("result", 1, 0)]
    assert fixture.listener.flushes == before + 1


def leave_artifacts(fixture: PoolFixture, folder: Path, *sizes: int) -> None:
    """Finish the running test of the first slot, with artifacts of these sizes."""
    folder.mkdir()
    for number, size in enumerate(sizes):
        (folder / str(number)).write_bytes(b"x" * size)
    files = [[str(number), size] for number, size in enumerate(sizes)]
    slot = fixture.slots[0]
    slot.say(SlotMessage("artifacts", slot.assigned[0], [slot.assigned[0].id, str(folder), files]))
    slot.finish()


def test_artifacts_come_before_the_result(fixture: PoolFixture, tmp_path: Path) -> None:
    fixture.start(1)
    fixture.add(1)
    fixture.turn()
    leave_artifacts(fixture, tmp_path / "out", 2, 1)
    assert fixture.turn() == [
        ("artifact", 1, "0", b"xx", True),
        ("artifact", 1, "1", b"x", True),
        ("result", 1, 0),
    ]
    assert not (tmp_path / "out").exists()


def test_large_artifacts_do_not_delay_reading_the_slots(
    fixture: PoolFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_pool, "_MAX_ARTIFACT_BYTES_PER_TURN", 10)
    fixture.start(2)
    fixture.add(1, 2)
    fixture.turn()
    leave_artifacts(fixture, tmp_path / "out", 10, 10)
    assert [each[0] for each in fixture.turn()] == ["artifact"]
    fixture.slots[1].finish()
    fixture.pool.process(fixture.pool.wait())  # does not wait
    fixture.pool.process(fixture.pool.wait())
    events = [each[:2] for each in fixture.listener.events]
    assert events == [("result", 2), ("artifact", 1), ("result", 1)]


# -- back-pressure ----------------------------------------------------------------


def test_in_a_pause_no_slot_is_read(fixture: PoolFixture) -> None:
    fixture.start(1)
    fixture.add(1, 2)
    fixture.turn()
    fixture.pool.pause()
    slot = fixture.slots[0]
    slot.calls.clear()
    slot.finish()
    fixture.pool._next_check = 0.0
    assert fixture.turn() == []
    assert slot.calls == [], "nothing is known of it"
    fixture.pool.resume()
    assert slot.active_since > 0
    assert fixture.turn() == [("result", 1, 0)]


def test_in_a_pause_no_artifact_is_passed_on(
    fixture: PoolFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = fixture.listener.on_artifact

    def take_and_pause(test: Test, piece: ArtifactPiece) -> None:
        take(test, piece)
        fixture.pool.pause()

    monkeypatch.setattr(fixture.listener, "on_artifact", take_and_pause)
    fixture.start(1)
    fixture.add(1)
    fixture.turn()
    leave_artifacts(fixture, tmp_path / "out", 1, 1)
    assert [each[2] for each in fixture.turn()] == ["0"]
    assert fixture.turn() == []
    fixture.pool.resume()
    assert [each[2] for each in fixture.turn()] == ["1"]
    fixture.pool.resume()
    assert fixture.turn() == [("result", 1, 0)]


def test_a_slot_that_dies_in_a_pause_is_replaced_by_one_that_is_not_read(
    fixture: PoolFixture,
) -> None:
    fixture.start(1)
    fixture.add(1, 2)
    fixture.turn()
    fixture.pool.pause()
    fixture.slots[0].die()
    assert fixture.turn() == [("result", 1, Problem.SLOT_DIED)]
    fixture.slots[1].finish()
    assert fixture.turn() == []
    fixture.pool.resume()
    assert fixture.turn() == [("result", 2, 0)]


# -- dead slots -------------------------------------------------------------------


def test_a_dead_slot_loses_one_test_and_its_successor_gets_the_others(fixture: PoolFixture) -> None:
    fixture.start(1)
    fixture.add(*range(1, 40), estimate=0.001)
    fixture.turn()
    batch = [test.id for test in fixture.slots[0].assigned]
    assert len(batch) > 1
    fixture.slots[0].die()
    assert fixture.turn() == [("result", 1, Problem.SLOT_DIED)]
    assert fixture.slots[1].number == 0
    assert fixture.slots[1].batches[0][:2] == batch[1:3]


def test_artifacts_of_a_dead_slot_are_not_passed_on(fixture: PoolFixture, tmp_path: Path) -> None:
    fixture.start(1)
    fixture.add(1)
    fixture.turn()
    slot = fixture.slots[0]
    slot.say(SlotMessage("artifacts", slot.assigned[0], [1, str(tmp_path), []]))
    fixture.turn()
    slot.die()
    assert fixture.turn() == [("result", 1, Problem.SLOT_DIED)]


def test_a_slot_that_retires_loses_no_test(fixture: PoolFixture) -> None:
    fixture.start(1)
    fixture.add(1)
    fixture.turn()
    fixture.slots[0].has_retired = True
    fixture.slots[0].die()
    assert fixture.turn() == []
    assert fixture.slots[1].batches == [[1]]


def test_slots_that_never_finish_a_test_are_given_up(fixture: PoolFixture) -> None:
    fixture.start(1)
    for _ in range(2):
        fixture.slots[-1].die()
        fixture.turn()
    fixture.slots[-1].die()
    with pytest.raises(SlotStartError, match=r"^a slot cannot be started: killed by SIGKILL$"):
        fixture.turn()


def test_no_slot_starts_that_would_inherit_what_a_test_has_changed(
    fixture: PoolFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixture.start(1)
    fixture.add(1)
    fixture.turn()
    monkeypatch.setattr(slot_pool.InheritedState, "restore", lambda _: False)
    fixture.slots[-1].die()
    with pytest.raises(SlotStartError, match=r"^a test has changed the limits"):
        fixture.turn()
    assert len(fixture.slots) == 1


def test_a_finished_test_shows_that_slots_can_start(fixture: PoolFixture) -> None:
    fixture.start(1)
    for _ in range(4):
        fixture.slots[-1].die()
        fixture.turn()
        fixture.slots[-1].die()
        fixture.turn()
        fixture.add(1)
        fixture.turn()
        fixture.slots[-1].finish()
        fixture.turn()


def test_closing_releases_slots_and_resources(fixture: PoolFixture) -> None:
    fixture.start(2)
    fixture.pool.close()
    assert fixture.resources.is_closed
    assert [slot.socket.fileno() for slot in fixture.slots] == [-1, -1]
