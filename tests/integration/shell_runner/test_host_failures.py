"""Tests of hosts that are silent, die or return, of unresponsive slots, and of returned tests."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shell_runner.hosts.fleet import Event, Fleet, FrameReceived, Host, HostEnded, HostReady
from shell_runner.hosts.gateway import Gateway
from shell_runner.hosts.spec import HostSpec
from shell_runner.remote.execution.slot_handle import SlotHandle
from shell_runner.remote.processes import process_tree as processes
from shell_runner.remote.protocol.model import Setup, Test
from shell_runner.remote.sessions.live_session import LiveSession
from shell_runner.shipping.tree_scan import SourceTree, scan
from tests.helpers.single_host_run import HostRun

LIMIT = 1.0


@dataclass(frozen=True)
class RemoteSpec(HostSpec):
    """This machine, to which the tree is sent as to a remote host."""

    @property
    def is_in_place(self) -> bool:
        return False


def interpreter(host: Host) -> int:
    """Return the process id of the interpreter behind the connection."""
    pipe: Any = host._gateway and host._gateway._gateway._io
    return int(pipe.popen.pid)


class SingleHostFleet:
    """A fleet of one host, with its events."""

    def __init__(self, root: Path, spec: HostSpec) -> None:
        self.fleet = Fleet([spec], Setup(str(root)), LIMIT)

    def __enter__(self) -> SingleHostFleet:
        self.fleet.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.fleet.close(2.0)

    @property
    def host(self) -> Host:
        return self.fleet.hosts[0]

    def event(self, kind: type) -> Any:
        """Return the next event; fail unless it is of this kind."""
        received = self.fleet.events.get(timeout=30)
        assert isinstance(received, kind), getattr(received, "error", received)
        return received


HERE = HostSpec("here", "popen", 1)


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGKILL, "the connection ended"), (signal.SIGSTOP, "has not answered for 1 s")],
)
def test_a_host_that_dies_or_stops_is_lost_and_can_be_opened_again(
    number: signal.Signals, words: str, tmp_path: Path
) -> None:
    with SingleHostFleet(tmp_path, HERE) as single:
        single.event(HostReady)
        lost, pid = single.host, interpreter(single.host)
        begin = time.monotonic()
        os.kill(pid, number)
        ended = single.event(HostEnded)
        assert time.monotonic() - begin < LIMIT + 4
        assert (ended.host, ended.error.cause, ended.can_reopen) == (lost, words, True)
        new = single.fleet.reopen(lost)
        assert single.event(HostReady).host is new is single.host
        assert time.monotonic() - begin < 10
        assert not os.path.exists(f"/proc/{pid}")


def test_a_silent_host_that_answers_is_kept(tmp_path: Path) -> None:
    with SingleHostFleet(tmp_path, HERE) as single:
        single.event(HostReady)
        with pytest.raises(queue.Empty):
            single.fleet.events.get(timeout=2 * LIMIT)


def test_an_interpreter_that_stops_while_the_tree_is_brought_is_noticed(tmp_path: Path) -> None:
    with SingleHostFleet(tmp_path, RemoteSpec("there", "popen", 1)) as single:
        gateway = await_gateway(single.host)
        deadline = time.monotonic() + 20
        while not gateway.has_answered and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(interpreter(single.host), signal.SIGSTOP)
        begin = time.monotonic()
        single.fleet.provide_tree(big_tree(tmp_path))
        ended = single.event(HostEnded)
        assert time.monotonic() - begin < LIMIT + 4
        assert ended.error.cause == "has not answered for 1 s"
        assert not ended.can_reopen


def await_gateway(host: Host) -> Gateway:
    deadline = time.monotonic() + 20
    while host._gateway is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return host._gateway


def big_tree(folder: Path) -> SourceTree:
    """Return a tree that is larger than the pipe to a host."""
    (folder / "big").write_bytes(os.urandom(1 << 20))
    return scan(folder, [])


def test_a_host_that_waits_long_for_the_tree_lives(tmp_path: Path) -> None:
    with SingleHostFleet(tmp_path, RemoteSpec("there", "popen", 1)) as single:
        with pytest.raises(queue.Empty):
            single.fleet.events.get(timeout=2 * LIMIT)
        single.fleet.provide_tree(scan(tmp_path, []))
        single.event(HostReady)


def test_attempts_to_come_back_do_not_delay_the_end(tmp_path: Path) -> None:
    with SingleHostFleet(tmp_path, HERE) as single:
        single.event(HostReady)
        os.kill(interpreter(single.host), signal.SIGKILL)
        host: Any = single.event(HostEnded).host
        for _ in range(3):  # the next one is four seconds away
            host = single.fleet.reopen(host)
        begin = time.monotonic()
    assert time.monotonic() - begin < 3
    assert single.fleet.reopen(host) is None


class Channel:
    """A channel that records what the host sends."""

    def __init__(self) -> None:
        self.sent: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def setcallback(self, *_: Any, **__: Any) -> None:
        pass

    def send(self, frame: bytes) -> None:
        self.sent.put(json.loads(frame[1:]))


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveSession:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return LiveSession(Channel())


def test_a_ping_is_answered_though_the_main_thread_is_busy(session: LiveSession) -> None:
    session.credit = 0
    thread = threading.Thread(target=session._receive, args=(b'J[["ping",7]]',))
    thread.start()
    assert session.channel.sent.get(timeout=5) == [["pong", 7]]
    thread.join()
    assert not session.inbox
    assert session.credit == 0


def test_a_main_thread_that_does_not_come_back_is_told_by_silence(session: LiveSession) -> None:
    session._busy_since = time.monotonic() - 61
    session._receive(b'J[["ping",1]]')
    session.setup = Setup("/")
    session._receive(b'J[["ping",2]]')
    session._busy_since = 0.0
    session._receive(b'J[["ping",3]]')
    # Unpacking may take long; waiting for slots does not count as work.
    assert [session.channel.sent.get(timeout=1) for _ in range(2)] == [[["pong", 1]], [["pong", 3]]]


def test_a_host_beats_while_it_unpacks_and_not_longer(session: LiveSession) -> None:
    session._keep_alive(0.05)
    for _ in range(3):  # of a main thread that does nothing else
        assert session.channel.sent.get(timeout=5) == [["pong", 0]]
    session._is_open.set()
    time.sleep(0.1)
    while not session.channel.sent.empty():
        session.channel.sent.get()
    with pytest.raises(queue.Empty):
        session.channel.sent.get(timeout=0.2)


def test_each_byte_of_a_large_frame_is_a_sign_of_life() -> None:
    read, write = os.pipe()
    pipe: Any = SimpleNamespace(infile=os.fdopen(read, "rb"))
    gateway: Any = object.__new__(Gateway)
    gateway._gateway, gateway.last_heard = SimpleNamespace(_io=pipe), 0.0
    gateway._track_received_bytes()
    with pipe.infile:
        frames: list[bytes] = []
        thread = threading.Thread(target=lambda: frames.append(pipe.read(600_000)))
        thread.start()
        os.write(write, b"x" * 10)
        deadline = time.monotonic() + 5
        while not gateway.last_heard and time.monotonic() < deadline:
            time.sleep(0.005)
        assert gateway.last_heard
        assert not frames
        with open(write, "wb") as file:
            file.write(b"y" * 600_000)
        thread.join(5)
        assert frames == [b"x" * 10 + b"y" * 599_990]
        assert pipe.read(10) == b"y" * 10
        with pytest.raises(EOFError):
            pipe.read(1)


# -- slots ------------------------------------------------------------------------


@pytest.fixture
def slot(tmp_path: Path) -> Any:
    (tmp_path / "test_a").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "test_a").chmod(0o755)
    made = SlotHandle(0, Setup(str(tmp_path), grace=0.2), str(tmp_path / "0"))
    made.assign([Test(1, "test_a", timeout=300.0)])
    answers, _ = made.read()
    assert answers[0].kind == "running"
    yield made
    made.process.kill()
    for pid in processes.DescendantLister(made.process.pid)():
        os.kill(pid, signal.SIGKILL)
    made.reap()


def test_a_slot_that_does_nothing_is_killed_ten_seconds_behind_the_deadline(slot: Any) -> None:
    end = slot.active_since + 300 + 0.2
    for second in range(10):
        slot.check_liveness(end + second)
        assert not slot._kill_reason
    slot.check_liveness(end + 10.1)
    slot.wait_until_dead()
    assert slot.reap() == "no answer from the slot, 10 s after the deadline"


def test_a_slot_that_works_has_a_minute(slot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    end = slot.active_since + 300 + 0.2
    ticks = iter(range(1000))
    monkeypatch.setattr(processes, "read_cpu_ticks", lambda _: next(ticks))
    for second in range(60):
        slot.check_liveness(end + second)
        assert not slot._kill_reason
    slot.check_liveness(end + 61)
    assert slot._kill_reason


def test_a_slot_that_is_stopped_goes_on(tmp_path: Path) -> None:
    with HostRun(tmp_path) as bench:
        execution = bench.run("#!/bin/sh\nkill -STOP $PPID; sleep 0.1\n")
    assert execution.exit_status == 0


# -- tests that are given back ----------------------------------------------------


@pytest.mark.parametrize("estimate", [None, 0.001], ids=["in the host", "in the slot"])
def test_what_has_not_been_started_is_given_back(estimate: float | None, tmp_path: Path) -> None:
    with HostRun(tmp_path) as bench:
        first = bench.new_test(
            "#!/bin/sh\nwhile [ ! -e go ]; do sleep 0.02; done\n", estimate=0.001
        )
        rest = [bench.new_test("#!/bin/sh\ntouch ran.$$\n", estimate=estimate) for _ in range(6)]
        bench.start(first, *rest)
        assert message(bench)[0] == "running"
        bench.host.request_return([first.id, *(test.id for test in rest[2:]), 77])
        back = message(bench)
        (tmp_path / "go").touch()
        done = bench.finish(3)
    assert back == ["returned", [test.id for test in rest[2:]]]
    assert sorted(done) == [1, 2, 3]
    assert len(list(tmp_path.glob("ran.*"))) == 2


def message(bench: HostRun) -> list[Any]:
    """Return the next message."""
    event: Event = bench.fleet.events.get(timeout=20)
    if isinstance(event, HostEnded):
        raise event.error
    assert isinstance(event, FrameReceived)
    (unpacked,) = event.host.unpack_messages(event.frame)
    return unpacked
