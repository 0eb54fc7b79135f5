"""One TLS connection, server side, in asyncio.

Owns what goes between a socket, the TLS state, and those who read and write.  asyncio's
own TLS differs from version to version, and none of them tells a peer why it is refused;
here the state machine is ours and the socket is plain.  Must not know what is said.
"""

import asyncio
import socket
import ssl
from typing import Dict

from .tls_engine import TlsState

_CHUNK = 1 << 16
#: What read() hands out at most, so that one record at a time does not cost a turn each.
_BATCH = 1 << 18
#: Seconds and bytes that a peer may take to notice that it has been refused.
_LINGER = 1.0
_LINGER_BYTES = 1 << 18


class Stream:
    """A connected, non-blocking socket with TLS on it."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self._loop = asyncio.get_event_loop()
        self._state = TlsState(context, server_side=True)
        self._tls, self._outgoing = self._state.tls, self._state.outgoing
        self._sending = asyncio.Lock()
        self._has_answered = False

    async def handshake(self) -> None:
        """Raises ssl.SSLError or OSError; whom we had answered by then is told why."""
        while True:
            try:
                self._tls.do_handshake()
                return await self._flush()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError:
                # Who never spoke TLS to us gets nothing at all.
                if self._has_answered:
                    await self._flush()
                    await self._linger()
                raise

    async def _fill(self) -> None:
        self._state.received(await self._loop.sock_recv(self.sock, _CHUNK))

    async def _flush(self) -> None:
        async with self._sending:
            if self._outgoing.pending:
                self._has_answered = True
                await self._loop.sock_sendall(self.sock, self._outgoing.read())

    def peer(self) -> Dict[str, str]:
        """The fields of the peer's subject."""
        subject = (self._tls.getpeercert() or {}).get("subject", ())
        return {field[0][0]: field[0][1] for field in subject}

    async def read(self) -> bytes:
        """Some bytes; none at the end.  Raises OSError."""
        while True:
            parts, ended = self._state.decrypt(_BATCH)
            if self._outgoing.pending:
                await self._flush()
            if parts or ended:
                return parts
            await self._fill()

    async def write(self, data: bytes) -> None:
        """Returns when the kernel has taken all of it; raises OSError."""
        async with self._sending:
            self._tls.write(data)
            await self._loop.sock_sendall(self.sock, self._outgoing.read())

    async def finish(self) -> None:
        """Say that this was all, and let the peer read it before the socket is closed."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass
        try:
            await asyncio.wait_for(self._flush(), _LINGER)
            await self._linger()
        except (OSError, asyncio.TimeoutError):
            pass

    async def _linger(self) -> None:
        """Bytes that nobody has read turn a close into a reset, which eats our last words."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(self._drain(), _LINGER)
        except (OSError, asyncio.TimeoutError):
            pass

    async def _drain(self) -> None:
        for _ in range(_LINGER_BYTES // _CHUNK):
            if not await self._loop.sock_recv(self.sock, _CHUNK):
                return
