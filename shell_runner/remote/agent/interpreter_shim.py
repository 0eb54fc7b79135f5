"""The process between the agent and one interpreter, which outlives neither.

Owns one interpreter and all processes that it starts.  Must not know TLS or the peer.  When the
agent shuts down the control socket, or dies, the interpreter gets a grace period to exit; then its
whole process tree is stopped and killed.
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

from ..processes import descendant_reaper, process_tree

#: Seconds that an interpreter gets to exit by itself after the end of its connection.
GRACE_PERIOD = 2.0
#: Maximum bytes of the agent's launch request.
_MAX_REQUEST_BYTES = 1 << 17
_IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
_VERSION_SCRIPT = "import sys; print(sys.version.split()[0], sys.version_info >= (3, 8))"


class InterpreterStartError(Exception):
    """An error: the interpreter cannot be started."""


class InterpreterShim:
    """The shim of one interpreter, which runs while the other end of ``control`` is open."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pid = 0
        self._wake, wake = os.pipe()
        for descriptor in (self._wake, wake):
            os.set_blocking(descriptor, False)
        # A signal is written to the pipe only if it has a handler, even an empty one.
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        """Read the launch request, run the interpreter, and kill all its processes at the end."""
        request = self._read_request()
        if request is None:
            return
        try:
            self._pid = _start_interpreter(request)
        except InterpreterStartError as error:
            self._send_answer({"error": str(error)})
            return
        _close_stdio()
        self._send_answer({"ok": True})
        if self._wait_for_exit(None):
            self._wait_for_exit(GRACE_PERIOD)
        descendant_reaper.kill_all(process_tree.DescendantLister(os.getpid()))

    def _read_request(self) -> Optional[Dict[str, Any]]:
        text = b""
        while not text.endswith(b"\n"):
            data = self._control.recv(1 << 16)
            if not data or len(text) > _MAX_REQUEST_BYTES:
                return None
            text += data
        request = json.loads(text.decode("utf-8"))
        return request if isinstance(request, dict) else None

    def _send_answer(self, answer: Dict[str, Any]) -> None:
        try:
            self._control.sendall(json.dumps(answer).encode("ascii") + b"\n")
        except OSError:
            pass  # the agent is gone: the next poll of the socket shows it

    def _wait_for_exit(self, seconds: Optional[float]) -> bool:
        """Wait for the interpreter to exit; return False if it has.

        Returns True if the connection ended first (only without ``seconds``) or the time is up.
        """
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
        if self._pid in descendant_reaper.reap():
            self._pid = 0
        return self._pid == 0


def _start_interpreter(request: Dict[str, Any]) -> int:
    """Start the interpreter in its own session with our stdin and stdout; return its process id."""
    python = list(request["python"]) or [sys.executable]
    if request["python"]:
        _check_version(python)
    command = [*python, "-u", "-c", request["bootstrap"]]
    process = _spawn(command, stdin=0, stdout=1)
    process.returncode = 0  # it is reaped by kill.reap, not by this object
    return process.pid


def _check_version(python: List[str]) -> None:
    """Raise CannotStart unless it is a Python >= 3.8."""
    process = _spawn(
        [*python, "-c", _VERSION_SCRIPT], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        output = process.communicate(timeout=10)[0].decode("utf-8", "replace").split()
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        output = []
    if len(output) != 2:
        raise InterpreterStartError("%s is not a usable Python" % " ".join(python))
    if output[1] != "True":
        raise InterpreterStartError(
            "Python >= 3.8 is needed, %s is %s" % (" ".join(python), output[0])
        )


def _spawn(command: List[str], **options: Any) -> "subprocess.Popen[bytes]":
    home = os.path.expanduser("~")
    folder = home if os.path.isdir(home) else "/"
    try:
        return subprocess.Popen(
            command,
            cwd=folder,
            start_new_session=True,
            restore_signals=True,
            preexec_fn=_restore_signals,
            **options,
        )
    except OSError as error:
        message = "cannot run %s (%s)" % (command[0], error.strerror)
        raise InterpreterStartError(message) from error


def _restore_signals() -> None:
    """Restore default signal handling: an ignored signal stays ignored across an exec."""
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _close_stdio() -> None:
    """Replace our stdin and stdout, so that the interpreter alone holds its end of the socket.

    Otherwise the agent would not notice that the interpreter has closed it.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def main(argv: List[str]) -> None:
    """Run the shim process; ``argv``: the descriptor of its end of the control socket."""
    descriptor = int(argv[0])
    os.set_inheritable(descriptor, False)
    process_tree.become_subreaper()
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as control:
        InterpreterShim(control).run()
    os._exit(0)
