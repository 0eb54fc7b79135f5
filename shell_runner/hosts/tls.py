"""The controller's side of a connection to an agent.

Responsible for connecting to an agent (or waiting for one that connects), the check of its name,
the hello, and the explanation of errors.  Must not know execnet or frames.  Imports little, since
every connection starts a new proxy.
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

from ..remote.agent.credentials import BadCredentials, check_crl, share_authority
from ..remote.agent.tcp import DEFAULT_PORT, DEFAULT_SILENCE, configure_socket
from .tls_transport import NotHostCertificate, TlsTransport

#: Seconds for connection and handshake, and to wait for an agent that connects to us.
CONNECT_TIMEOUT = 10.0
LISTEN_TIMEOUT = 25.0
#: Seconds for the agent to start an interpreter.
_ANSWER_TIMEOUT = 25.0
#: Maximum bytes of the answer to the hello.
_MAX_ANSWER_BYTES = 1 << 14
#: Maximum number of unidentified peers while we wait for an agent.
_MAX_PENDING_PEERS = 16


class CannotConnect(Exception):
    """An agent cannot be reached, refuses us, or is not the one that was requested."""

    def __init__(self, cause: str, hint: str = "") -> None:
        self.cause = cause
        self.hint = hint
        super().__init__(cause + (f"\n  try: {hint}" if hint else ""))

    def format_for_error_file(self) -> str:
        """Return two lines for the error file, as ``gateway`` reads them."""
        one = " ".join(self.cause.split())
        return f"nosejobs-cannot: {one}\nnosejobs-try: {' '.join(self.hint.split())}\n"


# -- opening ------------------------------------------------------------------------


def connect(settings: Mapping[str, Any], bootstrap: str) -> TlsTransport:
    """Connect to an agent and start an interpreter that runs ``bootstrap``.

    ``settings``: ``address``, ``port``, ``name``, ``credentials``, ``listen`` and ``python`` of the
    host's spec, and ``silence``, the seconds without network after which both ends give up.  Raises
    :exc:`CannotConnect`.
    """
    target = _AgentTarget.from_settings(settings)
    try:
        context = make_client_context(target.credentials)
    except CannotConnect as error:
        if not target.listen:
            _check_name(target)  # a misspelled host is likelier than missing credentials
        # A user without any credentials probably meant ssh.
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
    """The agent to connect to, and our credentials."""

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
        """Return a hint how to start the agent."""
        port = "" if self.port == DEFAULT_PORT else f" --listen 0.0.0.0:{self.port}"
        command = f"nosejobs-agent {self.name}.pem{port}"
        return f"start one there with `{command}`, or use ssh={self.address}"


def default_credentials() -> str:
    """Return the path to which ``nosejobs ca issue --client`` writes its bundle."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(config, "nosejobs", "client.pem")


# -- our credentials ----------------------------------------------------------------

_ISSUE_HINT = "`nosejobs ca issue --client NAME` on the machine with the authority"
_CRL_HINT = "`nosejobs ca crl --out FILE` on the machine with the authority writes it anew"


def make_client_context(path: str) -> ssl.SSLContext:
    """Return a context for TLS 1.3 with the bundle at ``path``; raise :exc:`CannotConnect`."""
    _check_bundle(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    lists = _find_crls(path)
    each = path
    try:
        context.load_cert_chain(path)
        for each in (path, *lists):
            context.load_verify_locations(each)
    except (OSError, ValueError) as error:
        what = "the credentials" if each == path else "the revocation list"
        hint = _ISSUE_HINT if each == path else _CRL_HINT
        raise CannotConnect(f"{what} {each} cannot be used: {error}", hint) from error
    if lists or "BEGIN X509 CRL" in Path(path).read_text(errors="replace"):
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _find_crls(path: str) -> list[str]:
    """Return the revocation lists that may be newer than that of the bundle at ``path``.

    Raises :exc:`CannotConnect` if one is that of another authority: OpenSSL would ignore it, and
    use the older one of the bundle.
    """
    folder = os.path.dirname(path)
    authority = os.path.join(folder, "ca", "ca.pem")
    lists = [os.path.join(folder, "crl.pem")]
    try:
        # The authority on this machine can be that of another fleet than the bundle.
        if not os.path.exists(authority) or share_authority(authority, path):
            lists.append(os.path.join(folder, "ca", "crl.pem"))
        lists = [each for each in lists if os.path.lexists(each)]
        for each in lists:
            check_crl(each, path)
    except BadCredentials as error:
        raise CannotConnect(f"the revocation list cannot be used: {error}", _CRL_HINT) from error
    return lists


def _check_bundle(path: str) -> None:
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        text = Path(path).read_text(errors="replace")
    except FileNotFoundError:
        raise CannotConnect(f"no credentials: {path} does not exist", _ISSUE_HINT) from None
    except OSError as error:
        raise CannotConnect(f"no credentials: {path}: {error.strerror}", _ISSUE_HINT) from error
    if mode & 0o037:
        cause = f"the key in {path} is accessible to others (mode {mode:04o})"
        raise CannotConnect(cause, f"chmod 600 {path}")
    if "PRIVATE KEY-----" not in text or "BEGIN CERTIFICATE-----" not in text:
        cause = f"the credentials {path} lack a key or a certificate"
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
        raise _explain_unknown_name(error, target) from error
    except TimeoutError as error:
        cause = f"no answer from {target.location} within {CONNECT_TIMEOUT:g} s"
        hint = f"is the host up, and the port open in its firewall? {target.start_hint()}"
        raise CannotConnect(cause, hint) from error
    except OSError as error:
        cause = f"no agent at {target.location} ({_error_text(error)})"
        raise CannotConnect(cause, target.start_hint()) from error


def _check_name(target: _AgentTarget) -> None:
    """Raise :exc:`CannotConnect` if the address of the agent cannot be resolved."""
    try:
        socket.getaddrinfo(target.address, target.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise _explain_unknown_name(error, target) from error


def _explain_unknown_name(error: OSError | UnicodeError, target: _AgentTarget) -> CannotConnect:
    cause = f"the name {target.address} is unknown ({_error_text(error)})"
    return CannotConnect(cause, f"check the spelling, or agent=ADDRESS//name={target.name}")


def _error_text(error: OSError | UnicodeError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _wait_until_ready(transport: TlsTransport, deadline: float) -> bool:
    """Wait for the transport; return False after the deadline, even if bytes keep arriving."""
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
    """Connections of peers that have not been identified yet."""

    def __init__(
        self, listener: socket.socket, target: _AgentTarget, context: ssl.SSLContext
    ) -> None:
        self._listener = listener
        self._target = target
        self._context = context
        #: By file descriptor, the oldest first.
        self._pending_peers: dict[int, TlsTransport] = {}
        self._last_refusal = ""

    def run(self, deadline: float) -> TlsTransport:
        """Return the connection of the requested agent; raise :exc:`CannotConnect`."""
        while True:
            for descriptor in self._poll(deadline):
                if descriptor == self._listener.fileno():
                    descriptor = self._accept()
                # A new peer may have answered before the next poll.
                if descriptor in self._pending_peers and self._continue_handshake(descriptor):
                    return self._pending_peers.pop(descriptor)

    def close(self) -> None:
        """Close all other connections."""
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
        cause = f"{target.name} did not connect to port {target.listen} within {LISTEN_TIMEOUT:g} s"
        if self._last_refusal:
            cause += f"; another peer did ({self._last_refusal})"
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
    hello = {"nosejobs": 2, **order, "silence": target.silence}
    line = memoryview(json.dumps(hello).encode() + b"\n")
    deadline = time.monotonic() + _ANSWER_TIMEOUT
    answer = b""
    try:
        while b"\n" not in answer:
            line = line[transport.write(line) :] if line else line
            data = transport.read()
            if data == b"" or len(answer) > _MAX_ANSWER_BYTES:
                raise CannotConnect(
                    f"the agent at {target.location} closed the connection", "see the agent's log"
                )
            answer += data or b""
            if data is None and not _wait_until_ready(transport, deadline):
                cause = f"the agent at {target.location} did not start an interpreter in time"
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
        problem = "its answer is invalid"
    if problem:
        text = "".join(c if c.isprintable() else "?" for c in problem[:500])
        hint = "see the agent's log, and its options"
        if "ython" in text:
            hint = "//python=/path/to/python3 in the host's spec"
        raise CannotConnect(f"the agent at {target.location} says: {text}", hint)


# -- what went wrong ----------------------------------------------------------------

#: TLS alerts of the agent about our certificate, and the cause in words.
_ALERTS: tuple[tuple[str, str], ...] = (
    ("CERTIFICATE_REVOKED", "our certificate has been revoked"),
    ("CERTIFICATE_EXPIRED", "our certificate has expired"),
    ("UNKNOWN_CA", "our certificate belongs to another fleet"),
    ("UNSUPPORTED_CERTIFICATE", "our certificate is not for a client"),
    ("CERTIFICATE_REQUIRED", "it requires a certificate, and we have none"),
    ("CERTIFICATE", "our certificate is refused"),
    ("DECRYPT_ERROR", "our certificate is refused"),
)


def _explain_error(error: OSError, target: _AgentTarget) -> CannotConnect:
    """Return the explanation of an error of TLS or of the network."""
    if isinstance(error, CannotConnect):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_host_certificate(error, target)
    if isinstance(error, NotHostCertificate):
        cause = f"the certificate of {target.location} is not for a host: {error}"
        return CannotConnect(cause, f"`nosejobs ca issue {target.name}` writes one")
    reason = str(getattr(error, "reason", None) or "")
    if "ALERT" in reason:
        for word, cause in _ALERTS:
            if word in reason:
                text = f"the agent at {target.location} refuses us: {cause} ({target.credentials})"
                return CannotConnect(text, _ISSUE_HINT)
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return CannotConnect(
            f"{target.location} closed the connection during the handshake ({_error_text(error)})",
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
    again = f"`nosejobs ca renew {target.name}`, and copy the bundle to the host"
    if "expired" in said:
        return CannotConnect(f"{at} has expired: {said}", again)
    if "revoked" in said:
        return CannotConnect(f"{at} has been revoked", f"to accept it again: {again}")
    if "not yet valid" in said:
        return CannotConnect(f"{at} is {said}", "compare the clocks of both machines")
    if re.search("unable to get|self-signed|self signed|signature", said):
        hint = f"//credentials=FILE of its fleet, or `nosejobs ca issue {target.name}` in ours"
        return CannotConnect(f"{at} belongs to another fleet: {said}", hint)
    return CannotConnect(f"{at} is refused: {said}", "see `nosejobs ca list`")
