"""TLS without a socket: encrypted bytes on one side, ours on the other.

Owns the state of one connection, of either end.  Must not know how bytes travel: that
differs (asyncio in an agent, one poll loop in the controller's proxy).
"""

import ssl
from typing import Optional, Tuple

#: More than a record has, which is what one read gives.
_RECORD = 1 << 16


class TlsState:
    """What a TLS connection is made of but for its socket."""

    def __init__(
        self, context: ssl.SSLContext, server_side: bool = False, name: Optional[str] = None
    ) -> None:
        """``name``: whom a client wants to find behind it."""
        self._incoming = ssl.MemoryBIO()
        #: What is to be sent; whoever calls anything here looks afterwards.
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self.outgoing, server_side, name)

    def received(self, data: bytes) -> None:
        """Encrypted bytes have come; none: no more will."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def decrypt(self, limit: int) -> Tuple[bytes, bool]:
        """All that can be read now, but hardly more than ``limit``; whether that was the end."""
        parts = bytearray()
        while len(parts) < limit:
            try:
                data = self.tls.read(_RECORD)
            except ssl.SSLWantReadError:
                return bytes(parts), False
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            if not data:
                return bytes(parts), True
            parts += data
        return bytes(parts), False
