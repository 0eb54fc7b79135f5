"""The controller's end of a connection to an agent: TLS in one thread, on one poll loop.

Owns the dialling of an agent (or the waiting for one that dials out), the check of its
name, the hello, and the words for what can go wrong.  Must not know execnet or frames.
Imports next to nothing of ours: each connection has a proxy that starts anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import ssl
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..remote.agent.tcp import DEFAULT_PORT, DEFAULT_SILENCE, configure_socket
from ..remote.agent.tls_engine import TlsEngine

#: Seconds to connect and continue_handshake hands; and to wait for an agent that dials out.
CONNECT_TIMEOUT = 10.0
LISTEN_TIMEOUT = 25.0
#: Seconds for the agent to start an interpreter.
_ANSWER_TIMEOUT = 25.0
_MAX_ANSWER_BYTES = 1 << 14
_CHUNK_SIZE = 1 << 18
#: Encrypted bytes that may wait for the kernel.
_MAX_UNSENT_BYTES = 1 << 18
#: Unknown peers at a time, while we wait for an agent.
_MAX_PENDING_PEERS = 16


class CannotConnect(Exception):
    """An agent cannot be reached, does not accept us, or is not whom we want."""

    def __init__(self, cause: str, hint: str = "") -> None:
        self.cause = cause
        self.hint = hint
        super().__init__(cause + (f"\n  try: {hint}" if hint else ""))

    def format_for_error_file(self) -> str:
        """Two lines for the file of complaints, as gateways.py reads them."""
        one = " ".join(self.cause.split())
        return f"nosejobs-cannot: {one}\nnosejobs-try: {' '.join(self.hint.split())}\n"


class TlsTransport:
    """Decrypted bytes of one non-blocking socket, for one thread."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._sock = sock
        self._state = TlsEngine(context, name=name)
        self._tls, self._outgoing = self._state.tls, self._state.outgoing
        #: Encrypted bytes that the kernel has not taken.
        self._unsent = memoryview(b"")
        self._has_more = False
        self._has_ended = False
        self._unread = b""

    def fileno(self) -> int:
        """The socket, for those who poll."""
        return self._sock.fileno()

    def list_poll_events(self) -> list[tuple[int, int]]:
        """What it waits for; who cannot take more bytes now leaves POLLIN out."""
        events = select.POLLIN | (select.POLLOUT if self._unsent else 0)
        return [(self._sock.fileno(), events)]

    def has_pending(self) -> bool:
        """Whether read() has more, or the end, without a poll."""
        return self._has_more or self._has_ended or bool(self._unread)

    def read(self) -> bytes | None:
        """Some bytes; none at the end; None: nothing now.  Raises OSError.

        Gives waiting bytes to the kernel too: call it for each event that poll reports.
        """
        self._flush()
        if self._unread:
            parts, self._unread = self._unread, b""
            return parts
        self._has_more = False
        parts = self._decrypt()
        while not parts and not self._has_ended:
            try:
                data = self._sock.recv(_CHUNK_SIZE)
            except (BlockingIOError, InterruptedError):
                break
            self._state.feed(data)
            parts = self._decrypt()
        self._flush()
        return parts if parts or self._has_ended else None

    def _decrypt(self) -> bytes:
        if self._has_ended:
            return b""
        parts, self._has_ended = self._state.decrypt(_CHUNK_SIZE)
        self._has_more = len(parts) >= _CHUNK_SIZE and not self._has_ended
        return parts

    def unread(self, data: bytes) -> None:
        """Bytes that the next read() shall have."""
        self._unread = data + self._unread

    def write(self, data: memoryview) -> int:
        """How many bytes it took; 0: the kernel takes no more now.  Raises OSError."""
        self._flush()
        if len(self._unsent) + self._outgoing.pending > _MAX_UNSENT_BYTES or not data:
            return 0
        taken = self._tls.write(data[:_CHUNK_SIZE])
        self._flush()
        return taken

    def _flush(self) -> None:
        while True:
            if not self._unsent:
                if not self._outgoing.pending:
                    return
                self._unsent = memoryview(self._outgoing.read())
            try:
                sent = self._sock.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                return
            self._unsent = self._unsent[sent:]

    def close(self) -> None:
        """Say that this was all, if it can be said at once, and close."""
        with contextlib.suppress(OSError):
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()
        self._sock.close()

    # -- opening ----------------------------------------------------------------

    def continue_handshake(self) -> bool:
        """One step of the handshake; whether it is over.  Raises OSError."""
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    self._flush()
                    return True
                except ssl.SSLWantReadError:
                    self._flush()
                    data = self._sock.recv(_CHUNK_SIZE)
                self._state.feed(data)
        except (BlockingIOError, InterruptedError):
            return False
        except ssl.SSLError:
            with contextlib.suppress(OSError):
                self._flush()  # the host's log shall say why we went
            raise


# -- opening ------------------------------------------------------------------------


def connect(settings: Mapping[str, Any], bootstrap: str) -> TlsTransport:
    """An interpreter behind an agent that runs ``bootstrap``; raises CannotConnect.

    ``settings``: ``address``, ``port``, ``name``, ``credentials``, ``listen`` and ``python``,
    as hosts.py makes them; ``silence``: seconds of a dead network that both ends put up with.
    """
    target = _AgentTarget.from_settings(settings)
    try:
        context = make_client_context(target.credentials)
    except CannotConnect as error:
        # Who has no fleet at all meant another way to the host.
        raise CannotConnect(error.cause, f"{error.hint}; or use ssh={target.address}") from error
    deadline = time.monotonic() + (LISTEN_TIMEOUT if target.listen else CONNECT_TIMEOUT)
    if target.listen:
        transport = _await_agent(target, context, deadline)
    else:
        transport = _connect_to_agent(target, context, deadline)
    order = {"python": str(settings.get("python", "")), "bootstrap": bootstrap}
    try:
        _exchange_hello(transport, target, order)
    except BaseException:
        transport.close()
        raise
    return transport


class _AgentTarget:
    """Whom we want, and what we show."""

    def __init__(
        self, address: str, port: int, name: str, credentials: str, listen: int, silence: float
    ) -> None:
        self.silence = silence
        self.address = address
        self.port = port
        self.name = name or address
        self.credentials = credentials or default_credentials()
        self.listen = listen
        self.location = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> _AgentTarget:
        get = settings.get
        return cls(
            str(get("address", "")),
            int(get("port") or DEFAULT_PORT),
            str(get("name") or ""),
            os.path.expanduser(str(get("credentials") or "")),
            int(get("listen") or 0),
            float(get("silence") or DEFAULT_SILENCE),
        )

    def start_hint(self) -> str:
        """How to get an agent there."""
        port = "" if self.port == DEFAULT_PORT else f" --listen 0.0.0.0:{self.port}"
        command = f"nosejobs-agent {self.name}.pem{port}"
        return f"start one there with `{command}`, or use ssh={self.address}"


def default_credentials() -> str:
    """Where ``nosejobs ca issue --client`` puts its bundle."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(config, "nosejobs", "client.pem")


# -- our credentials ----------------------------------------------------------------

_ISSUE_HINT = "`nosejobs ca issue --client NAME` on the machine with the authority"


def make_client_context(path: str) -> ssl.SSLContext:
    """TLS 1.3 with the bundle at ``path``; raises CannotConnect."""
    _check_bundle(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    lists = [each for each in _crl_paths(path) if os.path.exists(each)]
    each = path
    try:
        context.load_cert_chain(path)
        for each in (path, *lists):
            context.load_verify_locations(each)
    except (OSError, ValueError) as error:
        what = "the credentials" if each == path else "the revocation list"
        hint = _ISSUE_HINT if each == path else "`nosejobs ca crl --out FILE` writes it anew"
        raise CannotConnect(f"{what} {each} cannot be used: {error}", hint) from error
    if lists or "BEGIN X509 CRL" in Path(path).read_text(errors="replace"):
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _crl_paths(path: str) -> list[str]:
    """Where a newer revocation list may be than the one in the bundle."""
    folder = os.path.dirname(path)
    return [os.path.join(folder, "crl.pem"), os.path.join(folder, "ca", "crl.pem")]


def _check_bundle(path: str) -> None:
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        text = Path(path).read_text(errors="replace")
    except FileNotFoundError:
        raise CannotConnect(f"no credentials: there is no {path}", _ISSUE_HINT) from None
    except OSError as error:
        raise CannotConnect(f"no credentials: {path}: {error.strerror}", _ISSUE_HINT) from error
    if mode & 0o037:
        cause = f"others may use the key in {path} (mode {mode:04o})"
        raise CannotConnect(cause, f"chmod 600 {path}")
    if "PRIVATE KEY-----" not in text or "BEGIN CERTIFICATE-----" not in text:
        cause = f"the credentials {path} hold no key with a certificate"
        raise CannotConnect(cause, _ISSUE_HINT)


# -- finding the agent --------------------------------------------------------------


def _connect_to_agent(
    target: _AgentTarget, context: ssl.SSLContext, deadline: float
) -> TlsTransport:
    sock = _open_socket(target, deadline)
    configure_socket(sock, target.silence)
    transport = TlsTransport(sock, context, target.name)
    try:
        while not transport.continue_handshake():
            if not _wait_until_ready(transport, deadline):
                cause = f"{target.location} answers, but not with TLS within {CONNECT_TIMEOUT:g} s"
                raise CannotConnect(cause, f"is it an agent? {target.start_hint()}")
    except OSError as error:
        transport.close()
        raise _explain_error(error, target) from error
    except BaseException:
        transport.close()
        raise
    return transport


def _open_socket(target: _AgentTarget, deadline: float) -> socket.socket:
    left = max(deadline - time.monotonic(), 0.1)
    try:
        return socket.create_connection((target.address, target.port), left)
    except (socket.gaierror, UnicodeError) as error:
        cause = f"the name {target.address} is unknown ({_error_text(error)})"
        hint = f"check the spelling, or agent=ADDRESS//name={target.name}"
        raise CannotConnect(cause, hint) from error
    except TimeoutError as error:
        cause = f"no answer from {target.location} within {CONNECT_TIMEOUT:g} s"
        hint = f"is the host up, and the port open in its firewall? {target.start_hint()}"
        raise CannotConnect(cause, hint) from error
    except OSError as error:
        cause = f"no agent at {target.location} ({_error_text(error)})"
        raise CannotConnect(cause, target.start_hint()) from error


def _error_text(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _wait_until_ready(transport: TlsTransport, deadline: float) -> bool:
    """Wait for the transport; False: time is up, also for one that sends a byte now and then."""
    poller = select.poll()
    for descriptor, events in transport.list_poll_events():
        poller.register(descriptor, events)
    left = deadline - time.monotonic()
    return left > 0 and bool(poller.poll(left * 1000))


def _await_agent(target: _AgentTarget, context: ssl.SSLContext, deadline: float) -> TlsTransport:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listener(target.listen))
        waiting = _IncomingConnections(listener, target, context)
        stack.callback(waiting.close)
        return waiting.run(deadline)


def _listener(port: int) -> socket.socket:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        listener = socket.create_server(
            ("", port), family=family, backlog=64, dualstack_ipv6=family == socket.AF_INET6
        )
    except OSError as error:
        cause = f"cannot listen on port {port}: {_error_text(error)}"
        raise CannotConnect(cause, "//listen=PORT with a free port for each host") from error
    listener.setblocking(False)
    return listener


class _IncomingConnections:
    """Those who have dialled in and have not yet shown who they are."""

    def __init__(
        self, listener: socket.socket, target: _AgentTarget, context: ssl.SSLContext
    ) -> None:
        self._listener = listener
        self._target = target
        self._context = context
        #: The oldest first.
        self._pending_peers: dict[int, TlsTransport] = {}
        self._last_refusal = ""

    def run(self, deadline: float) -> TlsTransport:
        """The agent that we want; raises CannotConnect."""
        while True:
            for descriptor in self._poll(deadline):
                if descriptor == self._listener.fileno():
                    descriptor = self._accept()
                # A new one is asked at once: it may have answered before we look again.
                if descriptor in self._pending_peers and self._continue_handshake(descriptor):
                    return self._pending_peers.pop(descriptor)

    def close(self) -> None:
        """Let go of all others."""
        for transport in self._pending_peers.values():
            transport.close()

    def _poll(self, deadline: float) -> Iterator[int]:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        for transport in self._pending_peers.values():
            for descriptor, events in transport.list_poll_events():
                poller.register(descriptor, events)
        left = deadline - time.monotonic()
        ready = poller.poll(left * 1000) if left > 0 else []
        if not ready:
            raise self._make_timeout_error()
        return (descriptor for descriptor, _ in ready)

    def _make_timeout_error(self) -> CannotConnect:
        target = self._target
        cause = f"{target.name} did not dial port {target.listen} within {LISTEN_TIMEOUT:g} s"
        if self._last_refusal:
            cause += f"; somebody else did ({self._last_refusal})"
        command = f"nosejobs-agent {target.name}.pem --connect THIS-MACHINE:{target.listen}"
        return CannotConnect(cause, f"start its agent with `{command}`")

    def _accept(self) -> int:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return -1
        configure_socket(sock, self._target.silence)
        while len(self._pending_peers) >= _MAX_PENDING_PEERS:
            self._pending_peers.pop(next(iter(self._pending_peers))).close()
        transport = TlsTransport(sock, self._context, self._target.name)
        self._pending_peers[transport.fileno()] = transport
        return transport.fileno()

    def _continue_handshake(self, descriptor: int) -> bool:
        try:
            return self._pending_peers[descriptor].continue_handshake()
        except OSError as error:
            self._last_refusal = _explain_error(error, self._target).cause
            self._pending_peers.pop(descriptor).close()
            return False


# -- the hello ----------------------------------------------------------------------


def _exchange_hello(transport: TlsTransport, target: _AgentTarget, order: dict[str, str]) -> None:
    hello = {"nosejobs": 1, **order, "silence": target.silence}
    line = memoryview(json.dumps(hello).encode() + b"\n")
    deadline = time.monotonic() + _ANSWER_TIMEOUT
    answer = b""
    try:
        while b"\n" not in answer:
            line = line[transport.write(line) :] if line else line
            data = transport.read()
            if data == b"" or len(answer) > _MAX_ANSWER_BYTES:
                raise CannotConnect(
                    f"the agent at {target.location} hung up", "see the agent's log"
                )
            answer += data or b""
            if data is None and not _wait_until_ready(transport, deadline):
                cause = f"the agent at {target.location} started no interpreter in time"
                raise CannotConnect(cause, "see the agent's log; is the host overloaded?")
    except OSError as error:
        raise _explain_error(error, target) from error
    answer, _, rest = answer.partition(b"\n")
    transport.unread(rest)
    _check_answer(answer, target)


def _check_answer(answer: bytes, target: _AgentTarget) -> None:
    try:
        said = json.loads(answer)
        problem = "" if said.get("ok") is True else str(said["error"])
    except (ValueError, KeyError, AttributeError, RecursionError):
        problem = "its answer cannot be understood"
    if problem:
        text = "".join(c if c.isprintable() else "?" for c in problem[:500])
        hint = "see the agent's log, and its options"
        if "ython" in text:
            hint = "//python=/path/to/python3 in the host's spec"
        raise CannotConnect(f"the agent at {target.location} says: {text}", hint)


# -- what went wrong ----------------------------------------------------------------

#: Alerts of the agent about our certificate: cause and what to try.
_ALERTS: tuple[tuple[str, str], ...] = (
    ("CERTIFICATE_REVOKED", "our certificate has been revoked"),
    ("CERTIFICATE_EXPIRED", "our certificate has expired"),
    ("UNKNOWN_CA", "our certificate is of another fleet"),
    ("UNSUPPORTED_CERTIFICATE", "our certificate is not a client's"),
    ("CERTIFICATE_REQUIRED", "it wants a certificate, and we have none"),
    ("CERTIFICATE", "our certificate is refused"),
    ("DECRYPT_ERROR", "our certificate is refused"),
)


def _explain_error(error: OSError, target: _AgentTarget) -> CannotConnect:
    """An error of TLS or of the network in our words."""
    if isinstance(error, CannotConnect):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_host_certificate(error, target)
    reason = str(getattr(error, "reason", None) or "")
    if "ALERT" in reason:
        for word, cause in _ALERTS:
            if word in reason:
                text = f"the agent at {target.location} refuses us: {cause} ({target.credentials})"
                return CannotConnect(text, _ISSUE_HINT)
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return CannotConnect(
            f"{target.location} hung up during the handshake ({_error_text(error)})",
            "see the agent's log; is it an agent, and not too busy?",
        )
    if isinstance(error, ssl.SSLError):
        words = reason.lower().replace("_", " ") or str(error)
        cause = f"{target.location} does not speak TLS 1.3 as an agent does ({words})"
        return CannotConnect(cause, f"is it an agent? {target.start_hint()}")
    return CannotConnect(f"the connection to {target.location} is lost: {_error_text(error)}")


def _explain_host_certificate(
    error: ssl.SSLCertVerificationError, target: _AgentTarget
) -> CannotConnect:
    said = error.verify_message
    at = f"the certificate of {target.location}"
    if re.search("ostname mismatch|IP address mismatch", said):
        hint = f"//name=NAME, the one that it was issued for, or `nosejobs ca issue {target.name}`"
        return CannotConnect(f"{at} is not for {target.name}: {said}", hint)
    again = f"`nosejobs ca renew {target.name}`, and carry the bundle there"
    if "expired" in said:
        return CannotConnect(f"{at} is not valid any more: {said}", again)
    if "revoked" in said:
        return CannotConnect(f"{at} has been revoked", f"if it shall be back: {again}")
    if "not yet valid" in said:
        return CannotConnect(f"{at} is {said}", "compare the clocks of both machines")
    if re.search("unable to get|self-signed|self signed|signature", said):
        hint = f"//credentials=FILE of its fleet, or `nosejobs ca issue {target.name}` in ours"
        return CannotConnect(f"{at} is of another fleet: {said}", hint)
    return CannotConnect(f"{at} is refused: {said}", "see `nosejobs ca list`")
