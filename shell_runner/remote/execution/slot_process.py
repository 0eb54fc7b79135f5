"""The slot processes of a host, as seen by who feeds them.

Owns starting them, the tests that each has been given and not answered, and what
remains when one dies.  Must not know channels or trees of files.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import deque
from typing import Any, Deque, List, NamedTuple, Optional, Sequence, Tuple, Union

from .. import entry_point
from ..processes import process_tree
from ..protocol import verdict
from ..protocol.frames import Unframer, frame
from ..protocol.model import Setup, Test
from . import slot

#: Seconds behind deadline and grace after which a slot is given up: one that is stopped,
#: one that does nothing, and one that is at work (it may have to remove millions of files).
_STOPPED = 2.0
_STUCK = 10.0
_SLOW = 60.0
#: Seconds that the death of a slot may take.
_DYING = 5.0


def _spawned(arguments: Tuple[str, ...]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        entry_point.command("slot", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[int(arguments[1])],
    )


class Forked:
    """A slot that is a fork of this process: no interpreter is started, nothing is loaded.

    It has the methods of Popen that are needed here.
    """

    def __init__(self, arguments: Tuple[str, ...], place: str) -> None:
        sys.stderr.flush()
        self._status: Optional[int] = None
        self.pid = os.fork()
        if self.pid == 0:
            _be_slot(arguments, place)

    def wait(self, timeout: float) -> int:
        """Its exit status, or the number of its signal below zero; subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while self._status is None:
            self._status = self._look()
            if self._status is None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("slot", timeout)
            if self._status is None:
                time.sleep(0.001)
        return self._status

    def _look(self) -> Optional[int]:
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return 0  # somebody else has reaped it
        if pid == 0:
            return None
        return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def send_signal(self, number: int) -> None:
        """Not to another process that has got its number."""
        if self._status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """At once."""
        self.send_signal(signal.SIGKILL)


def _be_slot(arguments: Tuple[str, ...], place: str) -> None:
    """What is left of who forked is its memory; never returns."""
    status = 1
    try:
        gc.freeze()  # what its objects would close are numbers of our own files by then
        _close_all_but(int(arguments[1]))
        # The environment that others see of a fork is that of its parent: an attempt's slot is
        # known by where it is.
        os.chdir(place)
        slot.main(arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _close_all_but(keep: int) -> None:
    """Files that are not for programs either."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = list(range(os.sysconf("SC_OPEN_MAX")))
    for number in numbers:
        if number > 2 and number != keep:
            with contextlib.suppress(OSError):
                os.close(number)


class Answer(NamedTuple):
    """One message of a slot."""

    kind: str
    test: Test
    #: What follows the kind in the message, unless that is ``done``.
    values: Sequence[Any] = ()
    #: The JSON of the Execution of a test that is ``done``.
    row: bytes = b""


#: Of an answer that is about no test in particular.
_NOBODY = Test(-1, "")


class SlotProcess:
    """One slot, and what it has been given to do."""

    def __init__(self, number: int, setup: Setup, base: str, forked: bool = False) -> None:
        """``forked``: the slot is a fork, for a process without threads."""
        self.number = number
        self.given: Deque[Test] = deque()
        self.answered = 0
        #: When the first of those that it has been given became the first.
        self.since = 0.0
        #: What it has given back.
        self.returned: List[Test] = []
        self._is_recalled = False
        #: It ended by itself, between two tests.
        self.retired = False
        self._grace = setup.grace
        self._fate = ""
        #: Its processor time, and since when that has not changed.
        self._spent = -1
        self._idle_since = 0.0
        self._unframer = Unframer()
        self.socket, theirs = socket.socketpair()
        with theirs:
            # Its number, what it listens to, its folder.
            arguments = (str(number), str(theirs.fileno()), base)
            self.process: "Union[Forked, subprocess.Popen[bytes]]" = (
                Forked(arguments, setup.root) if forked else _spawned(arguments)
            )
        self.socket.sendall(frame(setup))

    @property
    def load(self) -> float:
        """Seconds of work that wait here, as far as they can be known."""
        return sum(1.0 if test.estimate is None else test.estimate for test in self.given)

    def give(self, tests: List[Test]) -> None:
        """Queue tests; BrokenPipeError is left to ``read``, which sees the death anyway."""
        if not self.given:
            self.since = time.monotonic()
        self.given.extend(tests)
        try:
            self.socket.sendall(frame(["run", tests]))
        except (BrokenPipeError, ConnectionResetError):
            pass

    def take_back(self, numbers: List[int]) -> None:
        """Ask for tests that it has not started; its answer, for the controller, names those."""
        if numbers:
            self._ask("return", numbers)

    def recall(self) -> None:
        """Ask it for what it has not started; the answer is in ``returned``."""
        if len(self.given) > 1 and not self._is_recalled:
            self._is_recalled = True
            self._ask("recall", [test.id for test in list(self.given)[1:]])

    def _ask(self, name: str, numbers: List[int]) -> None:
        try:
            self.socket.sendall(frame([name, numbers]))
        except OSError:
            pass  # ``read`` sees its death

    def stop(self) -> None:
        """Ask it to end what it does, and itself."""
        try:
            self.socket.sendall(frame(["stop"]))
        except OSError:
            pass

    def read(self) -> Tuple[List[Answer], bool]:
        """What it says, and whether it lives."""
        try:
            data = self.socket.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        answers = [self._answer(text) for text in self._unframer.feed(data)]
        return [answer for answer in answers if answer], bool(data)

    def _answer(self, text: bytes) -> Optional[Answer]:
        self.since = time.monotonic()
        self._is_recalled = False
        if text.startswith(b'["done",'):
            self.answered += 1
            return Answer("done", self.given.popleft(), row=text[8:-1])
        message: List[Any] = json.loads(text.decode("ascii"))
        if message[0] == "retired":
            self.retired = True
            return None
        if message[0] in ("returned", "recalled"):
            return self._take_returned(message[0], message[1])
        return Answer(message[0], self.given[0], message[1:])

    def _take_returned(self, name: str, numbers: List[int]) -> Optional[Answer]:
        """What was recalled stays on this host; of what was returned the controller hears."""
        back = [test for test in self.given if test.id in numbers]
        self.given = deque(test for test in self.given if test.id not in numbers)
        if name == "returned" and back:
            return Answer(name, _NOBODY, [numbers])
        if name == "recalled":
            self.returned += back
        return None

    def look_after(self, now: float) -> None:
        """Let one that its test has stopped go on; kill one that does not answer any more."""
        if not self.given:
            return
        late = now - self.since - self.given[0].timeout - self._grace
        stopped = process_tree.is_stopped(self.process.pid)
        if late > self._patience(stopped, now):
            self._fate = "stopped from outside" if stopped else "no answer from the slot"
            self._fate += ", %.0f s after the deadline" % late
            self.process.kill()
        elif stopped:
            self.process.send_signal(signal.SIGCONT)

    def _patience(self, stopped: bool, now: float) -> float:
        """Seconds behind the deadline that it gets."""
        if stopped:
            return _STOPPED
        spent = process_tree.ticks(self.process.pid)
        if spent != self._spent:
            self._spent, self._idle_since = spent, now
        return _STUCK if now - self._idle_since >= _STUCK else _SLOW

    def await_death(self) -> None:
        """Its end is seen on the socket a moment before its children come down to us."""
        deadline = time.monotonic() + _DYING
        while not process_tree.is_dead(self.process.pid) and time.monotonic() < deadline:
            time.sleep(0.001)

    def bury(self) -> str:
        """Reap a slot that has died; how it died, in words.

        What it ran is dead already: a slot under a debugger stays until that is gone.
        """
        self.socket.close()
        try:
            status = self.process.wait(_DYING)
        except subprocess.TimeoutExpired:
            return "cannot be killed"
        if self._fate:
            return self._fate
        if status < 0:
            return "killed by %s" % verdict.signal_name(-status)
        return verdict.exit_words(status)
