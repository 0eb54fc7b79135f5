"""The proxy: the program between execnet and a host that is reached by ssh or an agent.

execnet starts it in place of a Python interpreter, with ``-u -c BOOTSTRAP`` after our own argument,
and uses its stdin and stdout.  It has one thread and one poll loop: bytes from execnet go to the
host unchanged, bytes from the host pass the frame guard.  Responsible for that loop and for the
command line of ssh; TLS is in ``tls``.  It is run by its path.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import resource
import select
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn, Protocol

if __name__ == "__main__":  # -P keeps this folder off the path; its parent must be on it
    sys.path.insert(0, str(Path(__file__).parents[2]))

from shell_runner.hosts.frame_guard import (
    MAX_PAYLOAD_BYTES,
    VIOLATION_LINE,
    FrameGuard,
    ProtocolViolation,
)

_SSH_OPTIONS = (
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "ConnectTimeout=10",
    "-o",
    "ServerAliveInterval=5",
    "-o",
    "ServerAliveCountMax=3",
)

#: Code that runs on the host before execnet's bootstrap; must parse on any Python.
_VERSION_CHECK = (
    "import sys; sys.version_info < (3, 8) and sys.exit("
    "'nosejobs-needs-python: this is Python ' + sys.version.split()[0]); "
)

_CHUNK_SIZE = 1 << 16
#: Maximum number of bytes that are buffered in each direction.
_MAX_BUFFERED_BYTES = 1 << 20
#: Bytes beyond which ssh writes no more to the error file.
MAX_ERROR_FILE_BYTES = 16 << 20
#: Seconds in which a host may end on its own after the controller has closed its side.
_GOODBYE_TIMEOUT = 3.0
_PR_SET_PDEATHSIG = 1


class Transport(Protocol):
    """A connection to a host; no method blocks."""

    def list_poll_events(self) -> list[tuple[int, int]]:
        """Return file descriptors, and the events of poll(2) to wait for."""

    def read(self) -> bytes | None:
        """Return bytes of the host; empty at the end; None if there are none now."""

    def write(self, data: memoryview) -> int:
        """Return how many bytes were taken; 0 if it would block."""

    def has_pending(self) -> bool:
        """Return whether bytes can be read that poll(2) does not report."""

    def close(self) -> bool | None:
        """Tell the host that no more bytes follow; return whether it may still answer."""


class PipeTransport:
    """The stdin and stdout of a program that connects to the host, such as ssh."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._blocked = False
        os.set_blocking(write, False)
        os.set_blocking(read, False)

    def list_poll_events(self) -> list[tuple[int, int]]:
        """Return its output, and its input while that is full."""
        waits = [(self._read, select.POLLIN)]
        if self._blocked and self._write >= 0:
            waits.append((self._write, select.POLLOUT))
        return waits

    def read(self) -> bytes | None:
        """Return bytes; empty at the end; None if there are none now."""
        try:
            return os.read(self._read, _CHUNK_SIZE)
        except BlockingIOError:
            return None

    def write(self, data: memoryview) -> int:
        """Return how many bytes were taken; all if the program has ended, as nothing reads them."""
        try:
            taken = os.write(self._write, data) if self._write >= 0 else len(data)
        except BlockingIOError:
            taken = 0
        except BrokenPipeError:
            taken = len(data)
        self._blocked = taken < len(data)
        return taken

    def has_pending(self) -> bool:
        """Return False: poll(2) reports all bytes."""
        return False

    def close(self) -> bool:
        """Close its input; it may still answer."""
        if self._write >= 0:
            os.close(self._write)
            self._write = -1
        return True


class ByteRelay:
    """A relay of bytes between execnet and a host, until one side ends."""

    def __init__(
        self, transport: Transport, guard: FrameGuard, read: int = 0, write: int = 1
    ) -> None:
        """``read`` and ``write``: file descriptors of the side of execnet."""
        self._transport = transport
        self._guard = guard
        self._read, self._write = read, write
        self._to_host = bytearray()
        self._to_execnet = bytearray()
        self._host_ended = False
        #: When the controller closed its side; 0: it has not.
        self._goodbye_at = 0.0
        os.set_blocking(read, False)
        os.set_blocking(write, False)

    def run(self) -> None:
        """Relay; raise :exc:`ProtocolViolation`, or :exc:`OSError` of the transport."""
        while not self._is_finished():
            self._await_events()
            self._read_from_execnet()
            self._write_to_host()
            self._read_from_host()
            self._write_to_execnet()

    def _is_finished(self) -> bool:
        if self._host_ended and not self._to_execnet:
            return True
        return bool(self._goodbye_at) and time.monotonic() > self._goodbye_at + _GOODBYE_TIMEOUT

    def _await_events(self) -> None:
        poller = select.poll()
        if not self._goodbye_at:  # also without room, as the controller may die
            poller.register(self._read, select.POLLIN if self._has_room() else 0)
        if self._to_execnet:
            poller.register(self._write, select.POLLOUT)
        may_read = len(self._to_execnet) < _MAX_BUFFERED_BYTES and not self._host_ended
        for descriptor, events in (
            self._transport.list_poll_events() if not self._host_ended else ()
        ):
            wanted = events if may_read else events & ~select.POLLIN
            if wanted:
                poller.register(descriptor, wanted)
        must_not_wait = may_read and self._transport.has_pending()
        for descriptor, event in poller.poll(
            0 if must_not_wait else 200 if self._goodbye_at else None
        ):
            if descriptor == self._read and event & select.POLLHUP and not self._has_room():
                self._goodbye_at = time.monotonic()

    def _has_room(self) -> bool:
        return len(self._to_host) < _MAX_BUFFERED_BYTES

    def _read_from_execnet(self) -> None:
        if self._goodbye_at or len(self._to_host) >= _MAX_BUFFERED_BYTES:
            return
        try:
            data = os.read(self._read, _CHUNK_SIZE)
        except BlockingIOError:
            return
        if data:
            self._to_host += data
        else:
            self._goodbye_at = time.monotonic()

    def _write_to_host(self) -> None:
        while self._to_host:
            with memoryview(self._to_host) as view:
                taken = self._transport.write(view)
            if not taken:
                return
            del self._to_host[:taken]
        if self._goodbye_at and not self._transport.close():
            self._host_ended = True

    def _read_from_host(self) -> None:
        while len(self._to_execnet) < _MAX_BUFFERED_BYTES and not self._host_ended:
            data = self._transport.read()
            if data is None:
                return
            self._host_ended = not data
            self._to_execnet += self._guard.feed(data)
            if self._guard.error:
                # Before execnet ends the connection because of it: it is the reason.
                os.write(2, f"nosejobs-reason: {self._guard.error}\n".encode("utf-8", "replace"))
                self._guard.error = ""

    def _write_to_execnet(self) -> None:
        while self._to_execnet:
            try:
                taken = os.write(self._write, self._to_execnet)
            except BlockingIOError:
                return
            except BrokenPipeError:  # execnet reads no more, and its end of file follows
                taken = len(self._to_execnet)
            del self._to_execnet[:taken]


def make_ssh_command(settings: dict[str, Any], bootstrap: str) -> list[str]:
    """Return the ssh command that runs ``bootstrap`` with the Python of the host."""
    argv = ["ssh", *_SSH_OPTIONS]
    if settings["ssh_config"]:
        argv += ["-F", settings["ssh_config"]]
    python = settings["python"] or "python3"
    remote = "exec " + python + " -u -c " + shlex.quote(_VERSION_CHECK + bootstrap)
    return [*argv, *shlex.split(settings["address"]), remote]


def encode_settings(settings: dict[str, Any]) -> str:
    """Encode settings without slashes and spaces, which the specs of execnet cannot contain."""
    return base64.urlsafe_b64encode(json.dumps(settings).encode()).decode("ascii")


def _open_transport(settings: dict[str, Any], bootstrap: str) -> Transport:
    if settings["kind"] == "agent":
        return _connect_to_agent(settings, bootstrap)
    return _start_ssh(make_ssh_command(settings, bootstrap))


def _connect_to_agent(settings: dict[str, Any], bootstrap: str) -> Transport:
    from shell_runner.hosts import tls  # slow to import, and not needed for ssh

    try:
        return tls.connect(settings, bootstrap)
    except tls.CannotConnect as error:
        os.write(2, error.format_for_error_file().encode("utf-8", "replace"))
        sys.exit(1)


def _start_ssh(command: list[str]) -> PipeTransport:
    its_input, write = os.pipe()
    read, its_output = os.pipe()
    parent = os.getpid()
    if os.fork() == 0:
        _exec_ssh(command, parent, its_input, its_output)
    os.close(its_input)
    os.close(its_output)
    return PipeTransport(write, read)


def _exec_ssh(command: list[str], parent: int, its_input: int, its_output: int) -> NoReturn:
    """Become ssh, which ends with its parent: a killed proxy means a closed connection."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
    os.dup2(its_input, 0)
    os.dup2(its_output, 1)
    # A host decides what ssh writes to the error file.  Python ignores SIGXFSZ, and so does ssh.
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    if hard == resource.RLIM_INFINITY or hard > MAX_ERROR_FILE_BYTES:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_ERROR_FILE_BYTES, hard))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, b"nosejobs-no-ssh: %s\n" % str(error).encode())
    os._exit(127)


def main(argv: list[str]) -> None:
    """Run the proxy; ``argv``: the encoded settings, then the arguments of execnet for a Python."""
    settings = json.loads(base64.urlsafe_b64decode(argv[0]))
    try:
        errors = os.open(settings["errors"], os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        # The controller has given up; a new file would never be removed.
        raise SystemExit(1) from None
    os.dup2(errors, 2)
    os.write(2, b"nosejobs-pid: %d\n" % os.getpid())
    with contextlib.suppress(OSError):
        # Ctrl-C in the terminal must reach only the controller.
        os.setsid()
    try:
        transport = _open_transport(settings, argv[argv.index("-c") + 1])
        ByteRelay(transport, FrameGuard(settings.get("limit", MAX_PAYLOAD_BYTES))).run()
    except (ProtocolViolation, OSError) as error:
        if isinstance(error, ProtocolViolation):
            os.write(2, VIOLATION_LINE.encode())
        reason = " ".join(str(error).split())
        os.write(2, f"nosejobs-reason: {reason}\n".encode("utf-8", "replace"))
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
