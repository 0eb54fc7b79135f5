"""What a slot pool gives to its slots and reports to its listener, with slots that are fake."""

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
from shell_runner.remote.execution.artifacts import Piece
from shell_runner.remote.execution.host_resources import SLOTS, Capacity, Refusal
from shell_runner.remote.execution.slot_pool import SlotPool, SlotStartError
from shell_runner.remote.execution.slot_process import Answer
from shell_runner.remote.protocol.model import Execution, Problem, Setup, Test

NOBODY = Test(-1, "")


class Slot:
    """In place of a slot process: says what a test lets it say."""

    def __init__(self, number: int, *_: Any) -> None:
        self.number = number
        self.given: deque[Test] = deque()
        self.batches: list[list[int]] = []
        self.answers: list[Answer] = []
        self.answered = 0
        self.since = 0.0
        self.returned: list[Test] = []
        self.asked: list[int] = []
        self.calls: list[str] = []
        self.retired = False
        self.is_alive = True
        self.socket, self.theirs = socket.socketpair()
        self.process: Any = self
        self.pid = -1

    @property
    def load(self) -> float:
        return sum(1.0 if test.estimate is None else test.estimate for test in self.given)

    def give(self, tests: list[Test]) -> None:
        self.given.extend(tests)
        self.batches.append([test.id for test in tests])

    def take_back(self, numbers: list[int]) -> None:
        self.asked += numbers

    def recall(self) -> None:
        self.calls.append("recall")

    def look_after(self, _: float) -> None:
        self.calls.append("look_after")

    def read(self) -> tuple[list[Answer], bool]:
        self.socket.recv(1000)
        answers, self.answers = self.answers, []
        return answers, self.is_alive

    def stop(self) -> None:
        self.theirs.close()

    def await_death(self) -> None:
        pass

    def bury(self) -> str:
        self.socket.close()
        self.theirs.close()
        return "killed by SIGKILL"

    # -- what the test makes it do --

    def say(self, *answers: Answer) -> None:
        self.answers += answers
        self.theirs.send(b"x")

    def finish(self, **fields: Any) -> None:
        """End the first of its tests."""
        test = self.given.popleft()
        self.answered += 1
        row = json.dumps(Execution(test.id, test.attempt, exit=0, **fields)).encode()
        self.say(Answer("done", test, row=row))

    def die(self) -> None:
        self.is_alive = False
        self.theirs.close()


class Listener:
    """Records what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.flushes = 0

    def on_running(self, test: Test, slot: int) -> None:
        self.heard.append(("running", test.id, slot))

    def on_output(self, test: Test, line: str) -> None:
        self.heard.append(("line", test.id, line))

    def on_artifact(self, test: Test, piece: Piece) -> None:
        self.heard.append(("artifact", test.id, *piece))

    def on_result(self, test: Test, row: bytes) -> None:
        execution = Execution(*json.loads(row))
        self.heard.append(("result", test.id, execution.problem or execution.exit))

    def on_returned(self, numbers: list[int]) -> None:
        self.heard.append(("returned", numbers))

    def on_waiting(self, refusal: Refusal) -> None:
        self.heard.append(("waiting", *refusal))

    def flush(self) -> None:
        self.flushes += 1


class Resources(Capacity):
    """Those of a host on which something is refused, and what was asked of them."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.wanted: list[int] = []
        #: Locks that another run holds.
        self.held: set[str] = set()
        self.is_closed = False

    def slot(self, slots: Any) -> int | None:
        return None if self.refusal else super().slot(slots)

    def start(self, test: int, slots: Any, locks: Any, alone: bool) -> int | None:
        return None if self.held & set(locks) else super().start(test, slots, locks, alone)

    def end(self, test: int) -> None:
        self.ended.append(test)

    def is_wanted(self, slot: int) -> bool:
        return slot in self.wanted

    def close(self) -> None:
        self.is_closed = True


class Host:
    """A pool of fake slots."""

    def __init__(self, folder: Path) -> None:
        self.made: list[Slot] = []
        self.listener = Listener()
        self.resources = Resources()
        self.wake_read, self.wake_write = os.pipe()
        self.pool = SlotPool(self.listener, str(folder), self.wake_read)

    def start(self, slots: int) -> None:
        self.pool.start(Setup("/", slots=slots), self.resources)

    def add(self, *numbers: int, **fields: Any) -> None:
        self.pool.add(Test(number, "x", **fields) for number in numbers)

    def turn(self) -> list[tuple[Any, ...]]:
        """Let the pool do what is to be done now; what the listener heard of it."""
        os.write(self.wake_write, b"x")
        events = self.pool.wait()
        os.read(self.wake_read, 1)
        self.pool.process(events)
        heard, self.listener.heard = self.listener.heard, []
        return heard


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(tmp_path)

    def make(*arguments: Any) -> Slot:
        made.made.append(Slot(*arguments))
        return made.made[-1]

    monkeypatch.setattr(slot_pool, "SlotProcess", make)
    monkeypatch.setattr(slot_pool, "_GATHER_DELAY", 0.0)
    monkeypatch.setattr(slot_pool, "_kill_orphans", list)  # not children of the test's process
    yield made
    made.pool.close()
    os.close(made.wake_read)
    os.close(made.wake_write)


# -- waiting tests ----------------------------------------------------------------


def test_a_test_of_unknown_length_is_given_alone(host: Host) -> None:
    host.start(2)
    host.add(1, 2, 3)
    host.turn()
    assert [slot.batches for slot in host.made] == [[[1]], [[2]]]
    host.made[1].finish()
    assert host.turn() == [("result", 2, 0)]
    assert [slot.batches for slot in host.made] == [[[1]], [[2], [3]]]


def test_tiny_tests_go_in_batches_that_are_bounded(host: Host) -> None:
    host.start(2)
    host.add(*range(200), estimate=0.001)
    host.turn()
    sizes = [len(slot.given) for slot in host.made]
    assert all(1 < size <= slot_pool._MAX_QUEUED_TESTS for size in sizes)
    assert host.made[0].batches[0][0] == 0


def test_a_few_tiny_tests_are_shared(host: Host) -> None:
    host.start(2)
    host.add(*range(4), estimate=0.001)
    host.turn()
    assert all(slot.given for slot in host.made)


def test_tests_that_come_from_the_listener_are_given_out_without_another_event(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.start(1)
    monkeypatch.setattr(host.listener, "flush", lambda: host.add(1))
    host.turn()
    assert host.made[0].batches == []
    host.pool.process(host.pool.wait())  # does not wait
    assert host.made[0].batches == [[1]]


def test_a_serial_test_waits_until_all_slots_are_idle(host: Host) -> None:
    host.start(2)
    host.add(1)
    host.turn()
    host.add(2, serial=True)
    host.add(3)
    host.turn()
    assert [slot.batches for slot in host.made] == [[[1]], []], "3 would delay 2"
    host.made[0].finish()
    host.turn()
    assert host.made[0].batches == [[1], [2]]
    host.made[0].finish()
    host.turn()
    assert host.resources.ended == [2]


def test_a_test_that_waits_for_a_lock_does_not_stop_others(host: Host) -> None:
    host.resources.held = {"gpu"}
    host.start(1)
    host.add(1, locks=("gpu",))
    host.add(2)
    host.turn()
    assert host.made[0].batches == [[2]]
    host.resources.held = set()
    host.made[0].finish()
    host.turn()
    assert host.made[0].batches == [[2], [1]]


def test_what_waits_is_withdrawn_and_slots_are_asked_for_the_rest(host: Host) -> None:
    host.start(1)
    host.add(*range(1, 40), estimate=0.001)
    host.turn()
    given = [test.id for test in host.made[0].given]
    assert given[:2] == [1, 2]
    host.add(50, locks=("gpu",))
    assert host.pool.withdraw([1, 2, 39, 50, 77]) == [39, 50]
    assert host.made[0].asked == [2], "the first one is running"
    host.made[0].say(Answer("returned", NOBODY, [[2]]))
    assert host.turn() == [("returned", [2])]


def test_what_a_slot_has_given_back_comes_first(host: Host) -> None:
    host.start(1)
    host.add(*range(1, 40), estimate=0.001)
    host.turn()
    slot = host.made[0]
    host.resources.wanted = [0]
    host.turn()
    assert "recall" in slot.calls
    slot.returned = list(slot.given)[1:]
    slot.given = deque(list(slot.given)[:1])
    slot.finish()
    host.turn()
    assert slot.batches[1][0] == 2


def test_the_listener_hears_once_in_a_while_that_tests_wait(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    host.resources.refusal = Refusal(SLOTS)
    host.start(1)
    host.add(1)
    heard = []
    for _ in range(40):
        heard += [(now, words) for words in host.turn()]
        now += 1.0
    assert heard == [(1005.0, ("waiting", SLOTS, "")), (1035.0, ("waiting", SLOTS, ""))]


# -- reports ----------------------------------------------------------------------


def test_the_listener_hears_in_order_and_is_flushed_once_a_turn(host: Host) -> None:
    host.start(1)
    host.add(1)
    host.turn()
    slot, before = host.made[0], host.listener.flushes
    test = slot.given[0]
    slot.say(Answer("running", test, [1, 0.0]), Answer("line", test, [1, "hello"]))
    slot.finish()
    assert host.turn() == [("running", 1, 0), ("line", 1, "hello"), ("result", 1, 0)]
    assert host.listener.flushes == before + 1


def leave_artifacts(host: Host, folder: Path, *sizes: int) -> None:
    """End the first test of the first slot, which has left files of these sizes."""
    folder.mkdir()
    for number, size in enumerate(sizes):
        (folder / str(number)).write_bytes(b"x" * size)
    files = [[str(number), size] for number, size in enumerate(sizes)]
    slot = host.made[0]
    slot.say(Answer("kept", slot.given[0], [slot.given[0].id, str(folder), files]))
    slot.finish()


def test_artifacts_come_before_the_result(host: Host, tmp_path: Path) -> None:
    host.start(1)
    host.add(1)
    host.turn()
    leave_artifacts(host, tmp_path / "out", 2, 1)
    assert host.turn() == [
        ("artifact", 1, "0", b"xx", True),
        ("artifact", 1, "1", b"x", True),
        ("result", 1, 0),
    ]
    assert not (tmp_path / "out").exists()


def test_large_artifacts_do_not_keep_the_pool_from_its_slots(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_pool, "_MAX_ARTIFACT_BYTES_PER_TURN", 10)
    host.start(2)
    host.add(1, 2)
    host.turn()
    leave_artifacts(host, tmp_path / "out", 10, 10)
    assert [each[0] for each in host.turn()] == ["artifact"]
    host.made[1].finish()
    host.pool.process(host.pool.wait())  # does not wait
    host.pool.process(host.pool.wait())
    heard = [each[:2] for each in host.listener.heard]
    assert heard == [("result", 2), ("artifact", 1), ("result", 1)]


# -- back-pressure ----------------------------------------------------------------


def test_in_a_pause_no_slot_is_read(host: Host) -> None:
    host.start(1)
    host.add(1, 2)
    host.turn()
    host.pool.pause()
    slot = host.made[0]
    slot.calls.clear()
    slot.finish()
    host.pool._next_check = 0.0
    assert host.turn() == []
    assert slot.calls == [], "nothing is known of it"
    host.pool.resume()
    assert slot.since > 0
    assert host.turn() == [("result", 1, 0)]


def test_in_a_pause_no_artifact_is_passed_on(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = host.listener.on_artifact

    def take_and_pause(test: Test, piece: Piece) -> None:
        take(test, piece)
        host.pool.pause()

    monkeypatch.setattr(host.listener, "on_artifact", take_and_pause)
    host.start(1)
    host.add(1)
    host.turn()
    leave_artifacts(host, tmp_path / "out", 1, 1)
    assert [each[2] for each in host.turn()] == ["0"]
    assert host.turn() == []
    host.pool.resume()
    assert [each[2] for each in host.turn()] == ["1"]
    host.pool.resume()
    assert host.turn() == [("result", 1, 0)]


def test_a_slot_that_dies_in_a_pause_is_replaced_by_one_that_is_not_read(host: Host) -> None:
    host.start(1)
    host.add(1, 2)
    host.turn()
    host.pool.pause()
    host.made[0].die()
    assert host.turn() == [("result", 1, Problem.SLOT_DIED)]
    host.made[1].finish()
    assert host.turn() == []
    host.pool.resume()
    assert host.turn() == [("result", 2, 0)]


# -- dead slots -------------------------------------------------------------------


def test_with_a_slot_dies_one_test_and_the_others_go_to_its_successor(host: Host) -> None:
    host.start(1)
    host.add(*range(1, 40), estimate=0.001)
    host.turn()
    batch = [test.id for test in host.made[0].given]
    assert len(batch) > 1
    host.made[0].die()
    assert host.turn() == [("result", 1, Problem.SLOT_DIED)]
    assert host.made[1].number == 0
    assert host.made[1].batches[0][:2] == batch[1:3]


def test_what_a_dead_slot_had_kept_is_not_passed_on(host: Host, tmp_path: Path) -> None:
    host.start(1)
    host.add(1)
    host.turn()
    slot = host.made[0]
    slot.say(Answer("kept", slot.given[0], [1, str(tmp_path), []]))
    host.turn()
    slot.die()
    assert host.turn() == [("result", 1, Problem.SLOT_DIED)]


def test_a_slot_that_retires_loses_nothing(host: Host) -> None:
    host.start(1)
    host.add(1)
    host.turn()
    host.made[0].retired = True
    host.made[0].die()
    assert host.turn() == []
    assert host.made[1].batches == [[1]]


def test_slots_that_never_finish_a_test_are_given_up(host: Host) -> None:
    host.start(1)
    for _ in range(2):
        host.made[-1].die()
        host.turn()
    host.made[-1].die()
    with pytest.raises(SlotStartError, match=r"^a slot cannot be started: killed by SIGKILL$"):
        host.turn()


def test_a_finished_test_shows_that_slots_can_start(host: Host) -> None:
    host.start(1)
    for _ in range(4):
        host.made[-1].die()
        host.turn()
        host.made[-1].die()
        host.turn()
        host.add(1)
        host.turn()
        host.made[-1].finish()
        host.turn()


def test_the_end_frees_slots_and_resources(host: Host) -> None:
    host.start(2)
    host.pool.close()
    assert host.resources.is_closed
    assert [slot.socket.fileno() for slot in host.made] == [-1, -1]
