"""A gateway: one open connection to a host, on top of execnet, which no other module imports.

Responsible for opening the host, its channel, the transfer of our code, and the explanation of
failures.  Must not know tests or verdicts.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import select
import shlex
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import execnet

from ..errors import HostOpenError
from ..remote import bootstrap
from ..remote.protocol import frames
from ..text import strip_control_chars
from . import host_code
from .proxy_errors import ErrorFile
from .spec import HostSpec

#: Seconds to open a host, including the start of its interpreter.
OPEN_TIMEOUT = 30.0

#: Exceptions of a channel whose other end failed, is gone, or does not answer.
_CHANNEL_ERRORS = (EOFError, OSError, execnet.RemoteError, execnet.TimeoutError)

#: Variables with which coverage.py measures each interpreter that starts.  Ours would leave files.
_COVERAGE_VARIABLES = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")

#: Called in a thread of execnet for each frame, and with None when the connection has ended.
OnFrame = Callable[[bytes | None], None]

#: Asks a host for a sign of life; any byte of the host is one.
_PING = frames.pack_messages([["ping", 0]])
#: Maximum number of bytes that are read at once.
_CHUNK_SIZE = 1 << 18

#: A pattern of what the proxy prints for an agent, a cause and a hint.  Only the proxy itself may
#: word a hint: with ssh, a host can print anything.
_CAUSES_OF_AGENTS = ((r"nosejobs-cannot: (.*)\nnosejobs-try: (.*)", "{0}", "{1}"),)
#: Patterns of what ssh and the shell of the host print, each with a cause and a hint.
_CAUSES_OF_SSH: tuple[tuple[str, str, str], ...] = (
    (r"nosejobs-needs-python: (.*)", "Python >= 3.8 is needed, {0}", "//python=python3.x"),
    (r"nosejobs-no-ssh: (.*)", "cannot start ssh: {0}", "install an ssh client"),
    (
        r"(?m)^Can't open user config file (.*): ([^:\n]+)$",
        "cannot read the ssh configuration {0}: {1}",
        "//ssh_config=FILE in the host's spec, with the path of an existing file",
    ),
    (
        r"(?m)^(.+: line \d+: Bad configuration option: .*)$",
        "invalid ssh configuration: {0}",
        "correct the file",
    ),
    (
        r"(?m)^(?!nosejobs-)(.+)\n.*\bUNKNOWN port 65535\b",
        "the ProxyCommand or ProxyJump of ssh failed: {0}",
        "check it in your ssh configuration",
    ),
    (
        r"(?:bash|sh|zsh|dash|ksh|fish)[^\n]*?:? ?([^\s:]+): (?:command )?not found",
        "{0} not found on the host",
        "//python=/path/to/python3 in the host's spec, or install python3 there",
    ),
    (
        r"(?m)^(?!Warning: ).*?[‘'`\"]?([^\s:‘’'`\"]+)[’'\"]?: No such file or directory",
        "{0} not found on the host",
        "//python=/path/to/python3 in the host's spec",
    ),
    (r"Permission denied \(([^)]*)\)", "key refused ({0})", "ssh-copy-id, or ssh-add your key"),
    (
        r"Could not resolve hostname ([^\s:]+)",
        "the name {0} cannot be resolved",
        "check the spelling, or give the host an entry in ~/.ssh/config",
    ),
    (
        r"Host key verification failed",
        "its host key is unknown or has changed",
        "connect once with ssh and compare the fingerprint",
    ),
    (r"(Connection refused|No route to host|Network is unreachable)", "{0}", "is sshd running?"),
    (r"(timed out|Operation timed out)", "{0}", "is the host up, and the port open?"),
)


@functools.cache
def pack_host_code() -> tuple[str, bytes]:
    """Return the SHA-256 digest and the bytes of the zip with the code for hosts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in host_code.files():
            # The date is fixed, so that the digest depends on the contents alone.
            archive.writestr(zipfile.ZipInfo(name), contents)
    data = buffer.getvalue()
    return hashlib.sha256(data).hexdigest(), data


class Gateway:
    """One open connection to a host."""

    def __init__(
        self,
        spec: HostSpec,
        on_frame: OnFrame,
        cancel: threading.Event | None = None,
        silence: float = 0.0,
        session: str = "live",
    ) -> None:
        """Open the host.

        Raises :exc:`HostOpenError` if it cannot be opened, also soon after ``cancel`` was set.

        ``silence``: seconds without network after which the connection ends; 0: the default of the
        transport.
        ``session``: a name in ``SESSIONS`` of ``remote/__main__.py``.
        """
        self.spec = spec
        self._session = session
        self._silence = silence
        #: Seconds of one round trip, measured once.
        self.latency = 0.0
        #: The time of the last byte of the host, by the monotonic clock.
        self.last_heard = time.monotonic()
        #: Whether our code on the host has answered.
        self.has_answered = False
        self._on_frame = on_frame
        self._cancel = cancel or threading.Event()
        self._send_lock = threading.Lock()
        #: Since when a thread has been blocked in sending a frame; 0: none is.
        self.sending_since = 0.0
        self._group = execnet.Group()
        self._errors = ErrorFile() if spec.kind != "popen" else None
        try:
            self._gateway = self._open_gateway()
            self._track_received_bytes()
            self._channel = self._start_host_code()
            if self._errors:
                self._errors.unlink()
        except BaseException:
            self.close(timeout=1.0)
            raise
        self._channel.setcallback(self._on_channel_item, endmarker=None)

    # -- opening ----------------------------------------------------------------

    def _open_gateway(self) -> execnet.Gateway:
        """Open the gateway with a time limit, which execnet itself does not have."""
        box: list[Any] = []

        def make() -> None:
            try:
                box.append(self._group.makegateway(self._execnet_spec()))
            except BaseException as error:
                box.append(error)

        thread = threading.Thread(target=make, daemon=True, name=f"open {self.spec.id}")
        thread.start()
        deadline = time.monotonic() + OPEN_TIMEOUT
        while thread.is_alive() and time.monotonic() < deadline and not self._cancel.is_set():
            thread.join(0.1)
        if box and isinstance(box[0], execnet.Gateway):
            return box[0]
        raise self._explain_failure(box[0] if box else None)

    def _execnet_spec(self) -> str:
        if self.spec.kind == "popen":
            # Without site, which the host does not need, Python starts sooner, and tools that
            # measure every interpreter by it, such as coverage.py, do not start.
            python = f"{self.spec.python or shlex.quote(sys.executable)} -S"
            return f"popen//execmodel=main_thread_only//python={python}"
        from . import proxy  # it costs some milliseconds, which only other hosts need

        assert self._errors is not None
        settings: dict[str, str | int | float] = {**make_proxy_settings(self.spec)}
        settings |= {"errors": self._errors.path, "silence": self._silence}
        python = f"{sys.executable} -P {Path(proxy.__file__)} {proxy.encode_settings(settings)}"
        if any(name in os.environ for name in _COVERAGE_VARIABLES):
            unset = " ".join(f"-u {name}" for name in _COVERAGE_VARIABLES)
            python = f"env {unset} {python}"
        return f"popen//execmodel=main_thread_only//python={python}"

    def _start_host_code(self) -> execnet.Channel:
        """Start our code on the host.

        The round trip also proves that the gateway works: a failed bootstrap leaves a dead one.
        """
        try:
            channel = self._gateway.remote_exec(bootstrap)
            complaint = channel.receive(OPEN_TIMEOUT).decode("ascii", "replace")
            if complaint:
                raise HostOpenError(self.spec.id, complaint, "//python=… in the host's spec")
            digest, data = pack_host_code()
            begin = time.monotonic()
            channel.send(f"{digest} {self._session}".encode("ascii"))
            answer = channel.receive(OPEN_TIMEOUT)
            self.latency = time.monotonic() - begin
            if answer.startswith(b"cannot: "):
                words = answer[8:].decode("ascii", "replace")
                raise HostOpenError(self.spec.id, words, "//python=… in the host's spec")
            if answer == b"need":
                channel.send(data)
        except _CHANNEL_ERRORS as error:
            raise self._explain_failure(error) from error
        return channel

    def _explain_failure(self, error: object) -> HostOpenError:
        said = self._errors.read() if self._errors else ""
        causes = _CAUSES_OF_AGENTS if self.spec.kind == "agent" else _CAUSES_OF_SSH
        for pattern, cause, hint in causes:
            found = re.search(pattern, said)
            if found:
                hint = "; ".join(
                    filter(None, [hint.format(*found.groups()), self.spec.alternative])
                )
                return HostOpenError(self.spec.id, cause.format(*found.groups()), hint)
        reason = self._errors.close_reason() if self._errors else ""
        if reason:
            return HostOpenError(self.spec.id, reason)
        if said.strip():
            return HostOpenError(self.spec.id, said.strip().splitlines()[-1])
        if error is None:
            return HostOpenError(self.spec.id, f"no answer within {OPEN_TIMEOUT:g} s")
        if self.spec.python and isinstance(error, (OSError, EOFError)):
            words = f"{self.spec.python} cannot be run as a Python >= 3.8"
            return HostOpenError(
                self.spec.id, words, "//python=/path/to/python3 in the host's spec"
            )
        return HostOpenError(self.spec.id, f"{type(error).__name__}: {error}")

    # -- speaking ---------------------------------------------------------------

    def _track_received_bytes(self) -> None:
        """Record when bytes arrive: execnet reports only complete frames, which may be large."""
        source: Any = self._gateway._io
        read1 = source.infile.read1

        def read(size: int) -> bytes:
            parts = bytearray()
            while len(parts) < size:
                data = read1(min(size - len(parts), _CHUNK_SIZE))
                if not data:
                    raise EOFError(f"expected {size} bytes, got {len(parts)}")
                self.last_heard = time.monotonic()
                if len(data) == size:
                    return bytes(data)
                parts += data
            return bytes(parts)

        source.read = read

    def _on_channel_item(self, frame: Any) -> None:
        self.has_answered = True
        self._on_frame(frame if isinstance(frame, bytes) else None)

    def send(self, frame: bytes) -> None:
        """Send one frame; raise :exc:`OSError` if the host is gone."""
        with self._send_lock:
            self.sending_since = time.monotonic()
            try:
                self._channel.send(frame)
            finally:
                self.sending_since = 0.0

    def ping(self) -> None:
        """Request a sign of life, unless sending could block."""
        self.send_if_room(_PING)

    def send_if_room(self, frame: bytes, timeout: float = 0.0) -> bool:
        """Send a small frame unless that could block; return whether it was sent.

        ``timeout``: seconds to wait for another thread that is sending.
        """
        if not self._send_lock.acquire(timeout=timeout):
            return False
        try:
            if self.has_room():
                self._channel.send(frame)
                return True
        except OSError:
            pass  # the end of the connection is reported elsewhere
        finally:
            self._send_lock.release()
        return False

    def has_room(self) -> bool:
        """Return whether a small frame can be sent without waiting for the host."""
        pipe: Any = self._gateway._io
        poller = select.poll()
        try:
            poller.register(pipe.outfile, select.POLLOUT)
        except ValueError:
            return False  # closed
        return any(event == select.POLLOUT for _, event in poller.poll(0))

    def kill(self) -> None:
        """Kill the connection; a thread that is blocked in it gets an error."""
        pipe: Any = self._gateway._io
        pipe.kill()

    def send_messages(self, *messages: list[Any]) -> None:
        """Send messages in one frame; raise :exc:`OSError` if the host is gone."""
        self.send(frames.pack_messages(list(messages)))

    def was_ended_by_guard(self) -> bool:
        """Return whether the frame guard ended the connection."""
        return bool(self._errors and self._errors.was_ended_by_guard())

    def close_reason(self) -> str:
        """Return why the connection ended; empty if that is not known."""
        reason = self._errors.close_reason() if self._errors else ""
        if reason:
            return reason
        try:
            self._channel.waitclose(0.0)
        except execnet.RemoteError as error:
            return strip_control_chars(str(error).strip().splitlines()[-1])
        except _CHANNEL_ERRORS:
            pass
        return ""

    def close(self, timeout: float = 3.0) -> None:
        """Close the connection; kill processes that have not ended after ``timeout`` seconds."""
        self._group.terminate(timeout)
        if self._errors:
            self._errors.kill_writer()
            self._errors.close()


def make_proxy_settings(spec: HostSpec) -> dict[str, str | int]:
    """Return the settings that the proxy needs to reach a host."""
    own = {
        "ssh": ("ssh_config",),
        "agent": ("port", "name", "credentials", "listen"),
    }[spec.kind]
    names = ("kind", "address", "python", *own)
    return {name: getattr(spec, name) for name in names}
