"""TLS without I/O: encrypted bytes on one side, plain bytes on the other.

Owns the TLS state of one connection, for either end.  Must not know how bytes travel: an agent uses
asyncio, the controller's proxy a poll loop.
"""

import ssl
from typing import List, Optional, Tuple

from . import x509_fields

#: Maximum bytes of one read; more than a TLS record (RFC 8446: 16 KiB), which limits it anyhow.
_READ_SIZE = 1 << 16


class TlsEngine:
    """The TLS state of a connection, without its socket."""

    def __init__(
        self, context: ssl.SSLContext, server_side: bool = False, name: Optional[str] = None
    ) -> None:
        """Create a client or a server.  ``name``: the server name that a client expects."""
        self._incoming = ssl.MemoryBIO()
        #: Encrypted bytes to send; may be filled by any call, so the caller checks it after each.
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self.outgoing, server_side, name)

    def feed(self, data: bytes) -> None:
        """Pass received encrypted bytes to TLS; empty bytes mean the end of the stream."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def decrypt(self, limit: int) -> Tuple[bytes, bool]:
        """Return the plain bytes available now, and whether the stream has ended.

        May exceed ``limit`` by up to one record.
        """
        parts = bytearray()
        while len(parts) < limit:
            try:
                data = self.tls.read(_READ_SIZE)
            except ssl.SSLWantReadError:
                return bytes(parts), False
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            if not data:
                return bytes(parts), True
            parts += data
        return bytes(parts), False

    def get_peer_key_purposes(self) -> List[bytes]:
        """Return the extended key usages of the peer's certificate, as in ``x509_fields``.

        OpenSSL checks them only if there are any; a certificate without them fits any purpose.
        """
        certificate = self.tls.getpeercert(True)
        try:
            return x509_fields.read_key_purposes(certificate or b"")
        except ValueError:
            return []
