"""Decrypted bytes of one TLS connection, for one thread on one poll loop.

Must not know agents or what the bytes mean.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl

from ..remote.agent.tls_engine import TlsEngine
from ..remote.agent.x509_fields import SERVER_AUTH

_CHUNK_SIZE = 1 << 18
#: Maximum number of encrypted bytes that may wait for the kernel.
_MAX_UNSENT_BYTES = 1 << 18


class NotHostCertificate(OSError):
    """An error: the peer's certificate is valid, but not for a host."""


class TlsTransport:
    """The decrypted bytes of one non-blocking socket, for one thread."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._sock = sock
        self._state = TlsEngine(context, name=name)
        self._tls, self._outgoing = self._state.tls, self._state.outgoing
        #: Encrypted bytes that the kernel has not accepted yet.
        self._unsent = memoryview(b"")
        self._has_more = False
        self._has_ended = False
        self._unread = b""

    def fileno(self) -> int:
        """Return the file descriptor of the socket."""
        return self._sock.fileno()

    def list_poll_events(self) -> list[tuple[int, int]]:
        """Return the events to wait for; a caller that cannot take more bytes omits POLLIN."""
        events = select.POLLIN | (select.POLLOUT if self._unsent else 0)
        return [(self._sock.fileno(), events)]

    def has_pending(self) -> bool:
        """Return whether :meth:`read` has bytes, or the end, without a poll."""
        return self._has_more or self._has_ended or bool(self._unread)

    def read(self) -> bytes | None:
        """Return some bytes; empty at the end; None if there are none now.  Raises OSError.

        Also passes waiting bytes to the kernel, so call it for each event that poll reports.
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
        """Let the next :meth:`read` return ``data`` first."""
        self._unread = data + self._unread

    def write(self, data: memoryview) -> int:
        """Return how many bytes were taken; 0 if the kernel takes no more now.  Raises OSError."""
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
        """Send the end of the stream, if that does not block, and close."""
        with contextlib.suppress(OSError):
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()
        self._sock.close()

    def has_host_certificate(self) -> bool:
        """Return whether the peer's certificate may act as a host."""
        return SERVER_AUTH in self._state.get_peer_key_purposes()

    # -- opening ----------------------------------------------------------------

    def continue_handshake(self) -> bool:
        """Continue the handshake; return whether it is complete.  Raises OSError."""
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    self._flush()
                    if not self.has_host_certificate():
                        raise NotHostCertificate("without the extended key usage serverAuth")
                    return True
                except ssl.SSLWantReadError:
                    self._flush()
                    data = self._sock.recv(_CHUNK_SIZE)
                self._state.feed(data)
        except (BlockingIOError, InterruptedError):
            return False
        except ssl.SSLError:
            with contextlib.suppress(OSError):
                self._flush()  # sends the alert, so that the host can log the reason
            raise
