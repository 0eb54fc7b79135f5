"""The door: takes sockets, and makes connections of those whose peers are signed.

Owns the limits on those who are not yet known, dialling out, and the log.  Must not know the
command line, nor what the bytes behind a hello mean.
"""

import asyncio
import collections
import os
import random
import select
import socket
import ssl
import time
from typing import Dict, NamedTuple, Optional, Set, Tuple

from . import credentials
from .connection import Connection, Refused
from .credentials import Credentials
from .tcp import PORT, tune
from .tls_stream import Stream

#: Seconds between two attempts to dial out: from the first on, and at most.
_BACKOFF = (1.0, 10.0)
_DAY = 86400.0


class Options(NamedTuple):
    """What the command line says."""

    bundle: str
    crl: str = ""
    host: str = "0.0.0.0"
    port: int = PORT
    connect: Optional[Tuple[str, int]] = None
    port_file: str = ""
    handshakes: int = 64
    handshake_time: float = 10.0
    connections: int = 32


_lost_lines = 0


def log(event: str, **fields: object) -> None:
    """One line to stderr; peers cannot put anything else into it.

    Who reads it slowly loses lines: a full pipe must not stop the agent.
    """
    global _lost_lines
    words = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), event]
    for name, value in fields.items():
        text = "".join(c if c.isprintable() and c != '"' else "?" for c in str(value))[:300]
        words.append('%s="%s"' % (name, text) if " " in text or not text else name + "=" + text)
    text = " ".join(words) + "\n"
    if _lost_lines:
        words[1:] = ["trouble", 'reason="%d lines of the log are lost"\n%s' % (_lost_lines, text)]
        text = " ".join(words)
    try:
        # Room for a write that does not block: POSIX promises 512 bytes, Linux 4096.
        if select.select([], [2], [], 0)[1]:
            os.write(2, text.encode("utf-8", "replace"))
            _lost_lines = 0
        else:
            _lost_lines += 1
    except OSError:
        pass  # a log that cannot be written is no reason to refuse work


class Peer(NamedTuple):
    """Who is at the other end of a socket."""

    host: str
    port: str

    @classmethod
    def of(cls, sock: socket.socket) -> "Peer":
        """Raises OSError if it is gone already."""
        found = sock.getpeername()
        return cls(str(found[0]).split("%")[0], str(found[1]))

    def __str__(self) -> str:
        return ("[%s]:%s" if ":" in self.host else "%s:%s") % (self.host, self.port)


class Door:
    """Who knocks, who has got in, and who has not."""

    def __init__(self, options: Options) -> None:
        """Raises BadCredentials."""
        self._options = options
        self._credentials = Credentials(options.bundle, options.crl)
        #: Who has not yet shown a certificate, the oldest first.
        self._unknown: "Dict[asyncio.Task[bool], str]" = {}
        self._tasks: "Set[asyncio.Task[bool]]" = set()
        self._open = 0
        self._count = 0
        self._stopping = False
        self._warned = -_DAY

    def warn(self) -> None:
        """Say once a day that our certificate ends soon."""
        if time.monotonic() - self._warned >= _DAY:
            self._warned = time.monotonic()
            warning = credentials.expiry_warning(self._options.bundle)
            if warning:
                log("trouble", reason=warning)

    # -- sockets ----------------------------------------------------------------

    async def listen(self, listener: socket.socket) -> None:
        """Take connections for ever; closes the listener when cancelled."""
        loop = asyncio.get_event_loop()
        with listener:
            while True:
                try:
                    sock, _ = await loop.sock_accept(listener)
                except OSError as error:  # out of descriptors, or the peer is gone already
                    log("trouble", reason=error)
                    await asyncio.sleep(0.1)
                    continue
                self.take(sock)
                # The new task takes hold of its socket before it can be cancelled.
                await asyncio.sleep(0)

    async def dial(self, host: str, port: int) -> None:
        """Connect and be served, for ever."""
        delay, said = _BACKOFF[0], ""
        while True:
            try:
                sock = await asyncio.wait_for(_connect(host, port), 10.0)
            except (OSError, asyncio.TimeoutError) as error:
                reason = str(error) or "no answer"
                if reason != said:
                    log("waiting", peer="%s:%d" % (host, port), reason=reason)
                said = reason
            else:
                task, said = self.take(sock), ""
                if task is not None:
                    await asyncio.wait([task])
                    if _got_in(task):
                        delay = _BACKOFF[0]
            await asyncio.sleep(delay * random.uniform(0.75, 1.0))
            delay = min(delay * 2, _BACKOFF[1])

    def take(self, sock: socket.socket) -> "Optional[asyncio.Task[bool]]":
        """Serve the peer of a socket in a task of its own; its result: whether it got in."""
        try:
            tune(sock)
            peer = Peer.of(sock)
        except OSError:
            sock.close()
            return None
        self._make_room()
        task = asyncio.get_event_loop().create_task(self._serve(sock, peer))
        self._unknown[task] = peer.host
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: "asyncio.Task[bool]") -> None:
        self._tasks.discard(task)
        self._unknown.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            log("trouble", reason=repr(task.exception()))

    def _make_room(self) -> None:
        """Where too many are silent, the oldest of the address with the most goes."""
        if len(self._unknown) < self._options.handshakes:
            return
        busiest = collections.Counter(self._unknown.values()).most_common(1)[0][0]
        victim = next(task for task, host in self._unknown.items() if host == busiest)
        del self._unknown[victim]
        victim.cancel()

    # -- one peer ---------------------------------------------------------------

    async def _serve(self, sock: socket.socket, peer: Peer) -> bool:
        begin = time.monotonic()
        name = ""
        try:
            context = self._credentials.context(lambda why: log("trouble", reason=why))
            stream = Stream(sock, context)
            name = await self._handshake(stream)
            return await self._converse(stream, peer, name)
        except (ssl.SSLError, OSError, Refused, asyncio.TimeoutError) as error:
            log("refused", peer=peer, name=name, reason=_why(error), seconds=_since(begin))
            return False
        except asyncio.CancelledError:
            if not name:
                words = "the agent stops" if self._stopping else "too many handshakes"
                log("refused", peer=peer, name=name, reason=words, seconds=_since(begin))
            raise
        finally:
            sock.close()

    async def _handshake(self, stream: Stream) -> str:
        try:
            await asyncio.wait_for(stream.handshake(), self._options.handshake_time)
        except asyncio.TimeoutError:
            limit = self._options.handshake_time
            raise Refused("no handshake within %g s" % limit) from None
        self._unknown.pop(_this_task(), None)
        return stream.peer().get("commonName", "?")

    async def _converse(self, stream: Stream, peer: Peer, name: str) -> bool:
        connection = Connection(stream)
        try:
            if self._open >= self._options.connections:
                raise Refused("%d connections are open already" % self._open)
            self._open += 1
            try:
                return await self._work(connection, stream, peer, name)
            finally:
                self._open -= 1
        except Refused as error:
            await _tell(connection, stream, str(error))
            raise

    async def _work(self, connection: Connection, stream: Stream, peer: Peer, name: str) -> bool:
        try:
            order = await asyncio.wait_for(connection.hello(), self._options.handshake_time)
        except asyncio.TimeoutError:
            limit = self._options.handshake_time
            raise Refused("no hello within %g s" % limit) from None
        begin, reason = time.monotonic(), "the agent stops"
        self._count += 1
        number = self._count
        log("open", id=number, peer=peer, name=name)
        self.warn()
        try:
            reason = await connection.serve(order)
            await stream.finish()
        except (Refused, OSError) as error:
            reason = _why(error)
            if isinstance(error, Refused):
                await _tell(connection, stream, reason)
        finally:
            log("close", id=number, peer=peer, name=name, reason=reason, seconds=_since(begin))
        return True

    async def stop(self) -> None:
        """End all connections, and what is behind them."""
        self._stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _got_in(task: "asyncio.Task[bool]") -> bool:
    return not task.cancelled() and task.exception() is None and task.result()


async def _tell(connection: Connection, stream: Stream, problem: str) -> None:
    try:
        await asyncio.wait_for(connection.answer(problem), 1.0)
        await stream.finish()
    except (OSError, asyncio.TimeoutError):
        pass  # who does not listen is not told


def _this_task() -> "asyncio.Task[bool]":
    task = asyncio.current_task()
    assert task is not None
    return task


def _since(begin: float) -> str:
    return "%.3f" % (time.monotonic() - begin)


#: What OpenSSL says, and what it means.
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no certificate",
    "WRONG_VERSION_NUMBER": "not TLS",
    "HTTP_REQUEST": "not TLS, but HTTP",
    "HTTPS_PROXY_REQUEST": "not TLS, but HTTP",
    "UNSUPPORTED_PROTOCOL": "TLS older than 1.3",
    "UNEXPECTED_EOF_WHILE_READING": "the peer hung up during the handshake",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not accept our certificate: another authority",
}


def _why(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate refused: %s" % error.verify_message
    if isinstance(error, ssl.SSLEOFError):
        return "the peer hung up during the handshake"
    if isinstance(error, ssl.SSLError):
        return _REASONS.get(error.reason or "", error.reason or str(error))
    return str(error) or type(error).__name__


async def _connect(host: str, port: int) -> socket.socket:
    loop = asyncio.get_event_loop()
    problem: Exception = OSError("no address")
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
            problem = error
        except BaseException:
            sock.close()
            raise
    raise problem
