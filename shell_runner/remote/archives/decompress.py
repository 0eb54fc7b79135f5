"""The decompressed bytes of a file as a stream.

Supports gzip, bzip2, xz and plain files; memory does not grow with the decompressed size.  Must
not depend on the meaning of the bytes.
"""

import zlib
from typing import Any, BinaryIO, Callable, Dict, Iterable, Iterator, Optional, Tuple

from .limits import PIECE_BYTES, BadArchive

#: Maximum bytes of memory for decompressing an xz stream; ``xz -9`` needs 65 MiB.
_XZ_MEMORY_LIMIT = 256 << 20
_INPUT_BYTES = 1 << 15


class ByteSource:
    """The bytes of a file that is not compressed."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        """Read ``file``; ``max_bytes`` is the limit for all bytes that are read."""
        self._file = file
        self._remaining = max_bytes
        self._lookahead = b""

    def peek(self, count: int) -> bytes:
        """Return the first bytes without consuming them; must be called before ``read``."""
        self._lookahead = b""
        self._lookahead = self.read(count)
        return self._lookahead

    def read(self, count: int) -> bytes:
        """Return ``count`` bytes, fewer only at the end.

        Raises BadArchive if the limit is exceeded or the data cannot be decompressed.
        """
        data, self._lookahead = self._lookahead[:count], self._lookahead[count:]
        while len(data) < count:
            more = self._read_some(count - len(data))
            if not more:
                break
            data += more
        self._remaining -= len(data)
        if self._remaining < 0:
            raise BadArchive("", "its decompressed size exceeds the limit")
        return data

    def read_exactly(self, count: int) -> bytes:
        """Return ``count`` bytes; raises BadArchive if there are fewer."""
        data = self.read(count)
        if len(data) < count:
            raise BadArchive("", "unexpected end: it was truncated")
        return data

    def _read_some(self, count: int) -> bytes:
        return self._file.read(count)


class DecompressedSource(ByteSource):
    """The bytes of a compressed file; consecutive streams count as one."""

    def __init__(self, file: BinaryIO, max_bytes: int, new_decompressor: Callable[[], Any]) -> None:
        super().__init__(file, max_bytes)
        self._new_decompressor = new_decompressor
        self._decompressor = new_decompressor()
        self._pending_input = b""
        #: A stream has ended: the file may end here, or another stream may start.
        self._is_between_streams = False

    def _read_some(self, count: int) -> bytes:
        while True:
            if not self._pending_input:
                self._pending_input = self._file.read(_INPUT_BYTES)
            if self._is_between_streams and not self._begin_stream():
                return b""
            data = self._decompress(count)
            if data:
                return data

    def _begin_stream(self) -> bool:
        """Start the next stream; return False at the end of the file.

        Zeros between and after streams are padding.
        """
        while self._pending_input and not self._pending_input.strip(b"\0"):
            self._pending_input = self._file.read(_INPUT_BYTES)
        self._pending_input = self._pending_input.lstrip(b"\0")
        if self._pending_input:
            self._decompressor, self._is_between_streams = self._new_decompressor(), False
        return not self._is_between_streams

    def _decompress(self, count: int) -> bytes:
        """Return some bytes; none if more input is needed or a stream has ended."""
        is_at_end = not self._pending_input
        try:
            data = self._decompress_step(count)
        except Exception as error:  # zlib.error, OSError of bz2, LZMAError
            raise BadArchive("", "it cannot be decompressed: %s" % error) from None
        if self._decompressor.eof:
            self._pending_input = self._decompressor.unused_data + self._pending_input
            self._is_between_streams = True
        elif is_at_end and not data:
            raise BadArchive("", "unexpected end of compressed data: it was truncated")
        return data

    def _decompress_step(self, count: int) -> bytes:
        decompressor = self._decompressor
        if not hasattr(decompressor, "needs_input"):
            data: bytes = decompressor.decompress(self._pending_input, count)
            # At the end of a stream both unused_data and unconsumed_tail have the rest.
            self._pending_input = b"" if decompressor.eof else decompressor.unconsumed_tail
        elif decompressor.needs_input:
            data_in, self._pending_input = self._pending_input, b""
            data = decompressor.decompress(data_in, count)
        else:  # bz2 and lzma keep unused input themselves
            data = decompressor.decompress(b"", count)
        return data


def _new_gzip() -> Any:
    return zlib.decompressobj(31)


def _new_bzip2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _new_xz() -> Any:
    import lzma

    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_LIMIT)


#: First bytes of compressed streams, and the decompressors.
_DECOMPRESSORS: Dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": _new_gzip,
    b"BZh": _new_bzip2,
    b"\xfd7zXZ\0": _new_xz,
}


def open_source(file: BinaryIO, max_bytes: int) -> ByteSource:
    """Return the bytes of a file, decompressed if its first bytes say that it is compressed.

    ``max_bytes`` is the limit for all bytes that are read.  Raises BadArchive if this Python
    lacks the decompressor.
    """
    head = file.read(8)
    file.seek(0)
    for magic, new_decompressor in _DECOMPRESSORS.items():
        if head.startswith(magic):
            try:
                return DecompressedSource(file, max_bytes, new_decompressor)
            except ImportError as error:
                message = "this host's Python cannot decompress it: %s" % error
                raise BadArchive("", message) from None
    return ByteSource(file, max_bytes)


class MemberDecompressor:
    """Decompresses one member of a zip archive: deflate or bzip2."""

    def __init__(self, bzip2: bool = False) -> None:
        self._decompressor: Any = _new_bzip2() if bzip2 else zlib.decompressobj(-15)

    def decompress(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the decompressed bytes of ``chunks``.

        Raises ValueError if data is invalid, missing or follows the end.
        """
        for chunk in chunks:
            if self._decompressor.eof:
                raise ValueError("more data follows its contents")
            rest: Optional[bytes] = chunk
            while rest is not None:
                data, rest = self._decompress_step(rest)
                if data:
                    yield data
        if not self._decompressor.eof:
            raise ValueError("its contents are truncated")

    def _decompress_step(self, chunk: bytes) -> Tuple[bytes, Optional[bytes]]:
        """Return a piece, and the rest of the chunk or None if it is used up."""
        decompressor = self._decompressor
        try:
            data = decompressor.decompress(chunk, PIECE_BYTES)
        except Exception as error:
            raise ValueError("it cannot be decompressed: %s" % error) from None
        if decompressor.eof:
            if decompressor.unused_data:
                raise ValueError("more data follows its contents")
            return data, None
        if hasattr(decompressor, "needs_input"):
            return data, None if decompressor.needs_input else b""
        rest = decompressor.unconsumed_tail
        return data, rest if rest or len(data) == PIECE_BYTES else None
