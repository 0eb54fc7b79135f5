"""The process between the agent and one interpreter: nothing of it outlives the connection.

Owns one interpreter and whatever it starts.  Must not know TLS or who is connected.  Its
control socket is the connection's life: when the agent shuts it down, or is dead itself, the
interpreter gets a moment to end, and then the whole tree is stopped and killed.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional

from ..processes import kill, process_tree

#: Seconds that an interpreter gets to end by itself when its connection has ended.
GRACE = 2.0
#: What the agent says may not be longer.
_ORDER = 1 << 17
_DEAF = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
_VERSION = "import sys; print(sys.version.split()[0], sys.version_info >= (3, 8))"


class CannotStart(Exception):
    """The interpreter cannot be started."""


class Keeper:
    """One interpreter, kept for as long as ``control`` is open at its other end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pid = 0
        self._wake, wake = os.pipe()
        for descriptor in (self._wake, wake):
            os.set_blocking(descriptor, False)
        # Only a handler, even an empty one, makes the signal reach the pipe.
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        """From the agent's order to the death of the last process."""
        order = self._order()
        if order is None:
            return
        try:
            self._pid = _start(order)
        except CannotStart as error:
            self._answer({"error": str(error)})
            return
        _forget_stdio()
        self._answer({"ok": True})
        if self._wait(None):
            self._wait(GRACE)
        kill.kill_all(process_tree.Lister(os.getpid()))

    def _order(self) -> Optional[Dict[str, Any]]:
        text = b""
        while not text.endswith(b"\n"):
            data = self._control.recv(1 << 16)
            if not data or len(text) > _ORDER:
                return None
            text += data
        order = json.loads(text.decode("utf-8"))
        return order if isinstance(order, dict) else None

    def _answer(self, answer: Dict[str, Any]) -> None:
        try:
            self._control.sendall(json.dumps(answer).encode("ascii") + b"\n")
        except OSError:
            pass  # the agent is gone: the next look at the socket tells

    def _wait(self, seconds: Optional[float]) -> bool:
        """Until the interpreter has ended; True: the connection ended first, or time is up."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if seconds is None:
            poller.register(self._control, select.POLLIN)
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._has_ended():
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0) * 1000
            ready = [descriptor for descriptor, _ in poller.poll(left)]
            if self._control.fileno() in ready or not ready:
                return True
            os.read(self._wake, 4096)
        return False

    def _has_ended(self) -> bool:
        if self._pid in kill.reap():
            self._pid = 0
        return self._pid == 0


def _start(order: Dict[str, Any]) -> int:
    """The interpreter, in a session of its own, with our stdin and stdout."""
    python = list(order["python"]) or [sys.executable]
    if order["python"]:
        _check(python)
    command = [*python, "-u", "-c", order["bootstrap"]]
    process = _popen(command, stdin=0, stdout=1)
    process.returncode = 0  # it is reaped by us, not by this object
    return process.pid


def _check(python: List[str]) -> None:
    """Raise CannotStart unless it is a Python >= 3.8."""
    process = _popen([*python, "-c", _VERSION], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        said = process.communicate(timeout=10)[0].decode("utf-8", "replace").split()
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        said = []
    if len(said) != 2:
        raise CannotStart("%s is not a Python that can be run" % " ".join(python))
    if said[1] != "True":
        raise CannotStart("Python >= 3.8 is needed, %s is %s" % (" ".join(python), said[0]))


def _popen(command: List[str], **options: Any) -> "subprocess.Popen[bytes]":
    home = os.path.expanduser("~")
    folder = home if os.path.isdir(home) else "/"
    try:
        return subprocess.Popen(
            command, cwd=folder, start_new_session=True, restore_signals=True,
            preexec_fn=_hear, **options,
        )
    except OSError as error:
        words = "there is no %s" if isinstance(error, FileNotFoundError) else "cannot run %s"
        raise CannotStart("%s (%s)" % (words % command[0], error.strerror)) from error


def _hear() -> None:
    """An ignored signal stays so across an exec: the interpreter must not inherit ours."""
    for number in _DEAF:
        signal.signal(number, signal.SIG_DFL)


def _forget_stdio() -> None:
    """The interpreter's end must be its own: else nobody would see that it has closed it."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def main(argv: List[str]) -> None:
    """Run the keeper process; ``argv`` is the descriptor of its end of the control socket."""
    descriptor = int(argv[0])
    os.set_inheritable(descriptor, False)
    process_tree.become_subreaper()
    for number in _DEAF:
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as control:
        Keeper(control).run()
    os._exit(0)
