"""The agent's listener: accepts sockets, authenticates peers and serves their connections.

Owns dialing out and the limits on handshakes and connections.  Must not know the command line, nor
the meaning of the bytes after a hello.
"""

import asyncio
import collections
import random
import socket
import ssl
import time
from typing import Dict, NamedTuple, Optional, Set, Tuple

from . import credentials
from .connection import Connection, PeerRefused
from .credentials import Credentials
from .event_log import log
from .tcp import DEFAULT_PORT, configure_socket
from .tls_stream import TlsStream

#: Seconds between two attempts to dial out: the first delay and the longest; it doubles.
_DIAL_BACKOFF = (1.0, 10.0)
#: Seconds between two warnings of an expiring certificate.
_WARNING_INTERVAL = 86400.0


class AgentOptions(NamedTuple):
    """The options of the command line."""

    bundle: str
    crl: str = ""
    host: str = "0.0.0.0"
    port: int = DEFAULT_PORT
    connect: Optional[Tuple[str, int]] = None
    port_file: str = ""
    max_handshakes: int = 64
    handshake_timeout: float = 10.0
    max_connections: int = 32
    max_client_connections: int = 16


class PeerAddress(NamedTuple):
    """The address of the peer of a socket."""

    host: str
    port: str

    @classmethod
    def from_socket(cls, sock: socket.socket) -> "PeerAddress":
        """Return the address of a socket's peer; raise OSError if it has disconnected."""
        host, port = sock.getpeername()[:2]
        return cls(str(host).split("%")[0], str(port))

    def __str__(self) -> str:
        return ("[%s]:%s" if ":" in self.host else "%s:%s") % (self.host, self.port)


class AgentListener:
    """The listener of an agent, with the tasks of all its peers."""

    def __init__(self, options: AgentOptions) -> None:
        """Load the credentials; raise BadCredentials."""
        self._options = options
        self._credentials = Credentials(options.bundle, options.crl)
        #: Address of each peer that has not finished its handshake, by its task; oldest first.
        self._handshaking: "Dict[asyncio.Task[bool], str]" = {}
        self._tasks: "Set[asyncio.Task[bool]]" = set()
        #: Open connections by the name in the client's certificate; none of them is 0.
        self._open_connections: "collections.Counter[str]" = collections.Counter()
        self._connection_count = 0
        self._stopping = False
        self._warned_at = -_WARNING_INTERVAL

    def warn_of_expiry(self) -> None:
        """Log a warning at most once a day if the agent's certificate expires soon."""
        if time.monotonic() - self._warned_at >= _WARNING_INTERVAL:
            self._warned_at = time.monotonic()
            warning = credentials.describe_expiry(self._options.bundle)
            if warning:
                log("error", reason=warning)

    # -- sockets ----------------------------------------------------------------

    async def listen(self, listener: socket.socket) -> None:
        """Accept connections until canceled, then close ``listener``."""
        loop = asyncio.get_event_loop()
        with listener:
            while True:
                try:
                    sock, _ = await loop.sock_accept(listener)
                except OSError as error:  # no free descriptors, or the peer has disconnected
                    log("error", reason=error)
                    await asyncio.sleep(0.1)
                    continue
                self.serve_socket(sock)
                # Let the new task start: only then it closes its socket when it is canceled.
                await asyncio.sleep(0)

    async def dial(self, host: str, port: int) -> None:
        """Connect to a controller and serve it, again and again, until canceled."""
        delay, logged_reason = _DIAL_BACKOFF[0], ""
        while True:
            try:
                sock = await asyncio.wait_for(_connect(host, port), 10.0)
            except (OSError, asyncio.TimeoutError) as error:
                reason = str(error) or "no answer"
                if reason != logged_reason:
                    log("waiting", peer="%s:%d" % (host, port), reason=reason)
                logged_reason = reason
            else:
                task, logged_reason = self.serve_socket(sock), ""
                if task is not None:
                    await asyncio.wait([task])
                    if _was_admitted(task):
                        delay = _DIAL_BACKOFF[0]
            await asyncio.sleep(delay * random.uniform(0.75, 1.0))
            delay = min(delay * 2, _DIAL_BACKOFF[1])

    def serve_socket(self, sock: socket.socket) -> "Optional[asyncio.Task[bool]]":
        """Serve the peer of a socket in a task, whose result is whether the peer was admitted.

        Returns None if the peer has disconnected already.
        """
        try:
            configure_socket(sock)
            peer = PeerAddress.from_socket(sock)
        except OSError:
            sock.close()
            return None
        self._limit_handshakes()
        task = asyncio.get_event_loop().create_task(self._serve(sock, peer))
        self._handshaking[task] = peer.host
        self._tasks.add(task)
        task.add_done_callback(self._remove_task)
        return task

    def _remove_task(self, task: "asyncio.Task[bool]") -> None:
        self._tasks.discard(task)
        self._handshaking.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            log("error", reason=repr(task.exception()))

    def _limit_handshakes(self) -> None:
        """Cancel a handshake if there are too many: the oldest of the address with the most."""
        if len(self._handshaking) < self._options.max_handshakes:
            return
        busiest = collections.Counter(self._handshaking.values()).most_common(1)[0][0]
        oldest = next(task for task, host in self._handshaking.items() if host == busiest)
        del self._handshaking[oldest]
        oldest.cancel()

    # -- one peer ---------------------------------------------------------------

    async def _serve(self, sock: socket.socket, peer: PeerAddress) -> bool:
        started_at = time.monotonic()
        name = ""
        try:
            context = self._credentials.get_context(lambda error: log("error", reason=error))
            stream = TlsStream(sock, context)
            name = await self._handshake(stream)
            return await self._serve_peer(stream, peer, name)
        except (ssl.SSLError, OSError, PeerRefused, asyncio.TimeoutError) as error:
            log(
                "refused",
                peer=peer,
                name=name,
                reason=_describe_error(error),
                seconds=_format_seconds_since(started_at),
            )
            return False
        except asyncio.CancelledError:
            if not name:
                reason = "the agent stops" if self._stopping else "too many handshakes"
                log(
                    "refused",
                    peer=peer,
                    name=name,
                    reason=reason,
                    seconds=_format_seconds_since(started_at),
                )
            raise
        finally:
            sock.close()

    async def _handshake(self, stream: TlsStream) -> str:
        try:
            await asyncio.wait_for(stream.handshake(), self._options.handshake_timeout)
        except asyncio.TimeoutError:
            limit = self._options.handshake_timeout
            raise PeerRefused("no handshake within %g s" % limit) from None
        self._handshaking.pop(_current_task(), None)
        return stream.get_peer_subject().get("commonName", "?")

    async def _serve_peer(self, stream: TlsStream, peer: PeerAddress, name: str) -> bool:
        connection = Connection(stream)
        try:
            if not stream.has_client_certificate():
                raise PeerRefused("certificate refused: without the extended key usage clientAuth")
            self._check_connection_limits(name)
            self._open_connections[name] += 1
            try:
                return await self._serve_interpreter(connection, stream, peer, name)
            finally:
                self._open_connections -= collections.Counter([name])
        except PeerRefused as error:
            await _send_refusal(connection, stream, str(error))
            raise

    def _check_connection_limits(self, name: str) -> None:
        """Raise PeerRefused if a client of this name cannot be served now.

        The limit of one client leaves connections for the others.
        """
        if self._open_connections[name] >= self._options.max_client_connections:
            raise PeerRefused(
                "%d connections of %s are open already; close some, or start the agent with a "
                "larger --max-client-connections" % (self._open_connections[name], name)
            )
        total = sum(self._open_connections.values())
        if total >= self._options.max_connections:
            raise PeerRefused("%d connections are open already" % total)

    async def _serve_interpreter(
        self, connection: Connection, stream: TlsStream, peer: PeerAddress, name: str
    ) -> bool:
        try:
            request = await asyncio.wait_for(
                connection.read_hello(), self._options.handshake_timeout
            )
        except asyncio.TimeoutError:
            limit = self._options.handshake_timeout
            raise PeerRefused("no hello within %g s" % limit) from None
        started_at, reason = time.monotonic(), "the agent stops"
        self._connection_count += 1
        number = self._connection_count
        log("open", id=number, peer=peer, name=name)
        self.warn_of_expiry()
        try:
            reason = await connection.serve(request)
            await stream.close_gracefully()
        except (PeerRefused, OSError) as error:
            reason = _describe_error(error)
            if isinstance(error, PeerRefused):
                await _send_refusal(connection, stream, reason)
        finally:
            log(
                "close",
                id=number,
                peer=peer,
                name=name,
                reason=reason,
                seconds=_format_seconds_since(started_at),
            )
        return True

    async def stop(self) -> None:
        """End all connections and their interpreters."""
        self._stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _was_admitted(task: "asyncio.Task[bool]") -> bool:
    return not task.cancelled() and task.exception() is None and task.result()


async def _send_refusal(connection: Connection, stream: TlsStream, error: str) -> None:
    try:
        await asyncio.wait_for(connection.send_answer(error), 1.0)
        await stream.close_gracefully()
    except (OSError, asyncio.TimeoutError):
        pass  # the peer does not read


def _current_task() -> "asyncio.Task[bool]":
    task = asyncio.current_task()
    assert task is not None
    return task


def _format_seconds_since(started_at: float) -> str:
    return "%.3f" % (time.monotonic() - started_at)


#: Messages for the reason codes of OpenSSL.
_TLS_ERROR_MESSAGES = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no certificate",
    "WRONG_VERSION_NUMBER": "not TLS",
    "HTTP_REQUEST": "not TLS, but HTTP",
    "HTTPS_PROXY_REQUEST": "not TLS, but HTTP",
    "UNSUPPORTED_PROTOCOL": "TLS older than 1.3",
    "UNEXPECTED_EOF_WHILE_READING": "the peer hung up during the handshake",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not accept our certificate: another authority",
}


def _describe_error(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate refused: %s" % error.verify_message
    if isinstance(error, ssl.SSLEOFError):
        return "the peer hung up during the handshake"
    if isinstance(error, ssl.SSLError):
        return _TLS_ERROR_MESSAGES.get(error.reason or "", error.reason or str(error))
    return str(error) or type(error).__name__


async def _connect(host: str, port: int) -> socket.socket:
    loop = asyncio.get_event_loop()
    last_error: Exception = OSError("no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            sock.close()
            last_error = error
        except BaseException:
            sock.close()
            raise
    raise last_error
