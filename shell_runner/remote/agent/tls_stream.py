"""A server-side TLS stream for asyncio over a plain socket.

The TLS of asyncio differs between Python versions, and in none of them does a refused peer receive
the TLS alert that names the reason.  Must not know the messages.
"""

import asyncio
import socket
import ssl
from typing import Dict

from .tls_engine import TlsEngine
from .x509_fields import CLIENT_AUTH

#: Maximum bytes of one receive from the socket.
_RECEIVE_SIZE = 1 << 16
#: Maximum bytes that read() returns; larger than a record to save turns of the event loop.
_MAX_READ_BYTES = 1 << 18
#: Seconds to wait for a refused peer to close the connection.
_LINGER_TIMEOUT = 1.0
#: Maximum bytes to read and drop meanwhile.
_MAX_LINGER_BYTES = 1 << 18


class TlsStream:
    """A TLS stream over a connected, non-blocking socket."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self._loop = asyncio.get_event_loop()
        self._engine = TlsEngine(context, server_side=True)
        self._tls, self._outgoing = self._engine.tls, self._engine.outgoing
        self._write_lock = asyncio.Lock()
        self._has_sent = False

    async def handshake(self) -> None:
        """Perform the handshake; raise ssl.SSLError or OSError if it fails.

        A peer that speaks TLS receives an alert with the reason.
        """
        while True:
            try:
                self._tls.do_handshake()
                return await self._flush()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive()
            except ssl.SSLError:
                # A peer that does not speak TLS gets no bytes at all.
                if self._has_sent:
                    await self._flush()
                    await self._linger()
                raise

    async def _receive(self) -> None:
        self._engine.feed(await self._loop.sock_recv(self.sock, _RECEIVE_SIZE))

    async def _flush(self) -> None:
        async with self._write_lock:
            if self._outgoing.pending:
                self._has_sent = True
                await self._loop.sock_sendall(self.sock, self._outgoing.read())

    def get_peer_subject(self) -> Dict[str, str]:
        """Return the fields of the subject of the peer's certificate."""
        subject = (self._tls.getpeercert() or {}).get("subject", ())
        return {field[0][0]: field[0][1] for field in subject}

    def has_client_certificate(self) -> bool:
        """Return whether the peer's certificate may act as a client."""
        return CLIENT_AUTH in self._engine.get_peer_key_purposes()

    async def read(self) -> bytes:
        """Return some bytes, empty at the end of the stream; raise OSError."""
        while True:
            parts, ended = self._engine.decrypt(_MAX_READ_BYTES)
            if self._outgoing.pending:
                await self._flush()
            if parts or ended:
                return parts
            await self._receive()

    async def write(self, data: bytes) -> None:
        """Write all of ``data``; return when the kernel has taken it.  Raise OSError."""
        async with self._write_lock:
            self._tls.write(data)
            await self._loop.sock_sendall(self.sock, self._outgoing.read())

    async def close_gracefully(self) -> None:
        """Send the end of the stream, and let the peer read it before the socket is closed."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass
        try:
            await asyncio.wait_for(self._flush(), _LINGER_TIMEOUT)
            await self._linger()
        except (OSError, asyncio.TimeoutError):
            pass

    async def _linger(self) -> None:
        """Read and drop what the peer still sends.

        Unread bytes would turn the close into a reset, and the peer would lose our last message.
        """
        try:
            self.sock.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(self._drain(), _LINGER_TIMEOUT)
        except (OSError, asyncio.TimeoutError):
            pass

    async def _drain(self) -> None:
        for _ in range(_MAX_LINGER_BYTES // _RECEIVE_SIZE):
            if not await self._loop.sock_recv(self.sock, _RECEIVE_SIZE):
                return
