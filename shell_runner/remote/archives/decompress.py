"""The bytes of a compressed file as a stream that one asks for so many bytes.

Owns gzip, bzip2, xz and plain files, with as much memory whatever they inflate to.  Must
not know what the bytes mean.
"""

import zlib
from typing import Any, BinaryIO, Callable, Dict, Iterable, Iterator, Optional, Tuple

from .limits import PIECE, BadArchive

#: Bytes that an xz stream may need to be read; ``xz -9`` needs 65 MiB.
_XZ_MEMORY = 256 << 20
_INPUT = 1 << 15


class Source:
    """A file as it is."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        """``most``: bytes that are read of it, whatever for."""
        self._file = file
        self._left = most
        self._ahead = b""

    def peek(self, count: int) -> bytes:
        """What ``read`` will return, before the first one."""
        self._ahead = b""
        self._ahead = self.read(count)
        return self._ahead

    def read(self, count: int) -> bytes:
        """``count`` bytes, fewer only at the end."""
        data, self._ahead = self._ahead[:count], self._ahead[count:]
        while len(data) < count:
            more = self._some(count - len(data))
            if not more:
                break
            data += more
        self._left -= len(data)
        if self._left < 0:
            raise BadArchive("", "it inflates to more bytes than the limit")
        return data

    def exactly(self, count: int) -> bytes:
        """``count`` bytes, or BadArchive."""
        data = self.read(count)
        if len(data) < count:
            raise BadArchive("", "it ends in the middle: it was cut")
        return data

    def _some(self, count: int) -> bytes:
        return self._file.read(count)


class Inflated(Source):
    """A compressed file; several streams one after the other count as one."""

    def __init__(self, file: BinaryIO, most: int, start: Callable[[], Any]) -> None:
        super().__init__(file, most)
        self._start = start
        self._inflater = start()
        self._input = b""
        #: The stream at hand has not begun: the file may end here.
        self._fresh = False

    def _some(self, count: int) -> bytes:
        while True:
            if not self._input:
                self._input = self._file.read(_INPUT)
            if self._fresh and not self._begin():
                return b""
            data = self._inflate(count)
            if data:
                return data

    def _begin(self) -> bool:
        """Whether another stream follows; zeros between and after them are padding."""
        while self._input and not self._input.strip(b"\0"):
            self._input = self._file.read(_INPUT)
        self._input = self._input.lstrip(b"\0")
        if self._input:
            self._inflater, self._fresh = self._start(), False
        return not self._fresh

    def _inflate(self, count: int) -> bytes:
        """Some bytes; none when more of the file is needed, or a stream has ended."""
        at_end = not self._input
        try:
            data = self._step(count)
        except Exception as error:  # zlib.error, OSError of bz2, LZMAError
            raise BadArchive("", "it cannot be inflated: %s" % error) from None
        if self._inflater.eof:
            self._input, self._fresh = self._inflater.unused_data + self._input, True
        elif at_end and not data:
            raise BadArchive("", "it ends in the middle of compressed data: it was cut")
        return data

    def _step(self, count: int) -> bytes:
        inflater = self._inflater
        if not hasattr(inflater, "needs_input"):
            data: bytes = inflater.decompress(self._input, count)
            # At the end of a stream, what follows is in both of its attributes.
            self._input = b"" if inflater.eof else inflater.unconsumed_tail
        elif inflater.needs_input:
            given, self._input = self._input, b""
            data = inflater.decompress(given, count)
        else:  # bz2 and lzma keep what they have not used
            data = inflater.decompress(b"", count)
        return data


def _gzip() -> Any:
    return zlib.decompressobj(31)


def _bzip2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Any:
    import lzma

    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


#: How streams begin, and who inflates them.
_KINDS: Dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": _gzip,
    b"BZh": _bzip2,
    b"\xfd7zXZ\0": _xz,
}


def open_source(file: BinaryIO, most: int) -> Source:
    """The bytes of a file, inflated if its first bytes say that it is compressed."""
    head = file.read(8)
    file.seek(0)
    for magic, start in _KINDS.items():
        if head.startswith(magic):
            try:
                return Inflated(file, most, start)
            except ImportError as error:
                raise BadArchive("", "this host's Python cannot inflate it: %s" % error) from None
    return Source(file, most)


class Contents:
    """Compressed contents within a file of another kind: deflated, or by bzip2."""

    def __init__(self, bzip2: bool = False) -> None:
        self._inflater: Any = _bzip2() if bzip2 else zlib.decompressobj(-15)

    def pieces(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """What ``chunks`` inflate to; ValueError if something is missing, or follows."""
        for chunk in chunks:
            if self._inflater.eof:
                raise ValueError("more data follows its contents")
            rest: Optional[bytes] = chunk
            while rest is not None:
                data, rest = self._step(rest)
                if data:
                    yield data
        if not self._inflater.eof:
            raise ValueError("its contents end in the middle")

    def _step(self, chunk: bytes) -> Tuple[bytes, Optional[bytes]]:
        """A piece, and what is left of the chunk, if there may be more in it."""
        inflater = self._inflater
        try:
            data = inflater.decompress(chunk, PIECE)
        except Exception as error:
            raise ValueError("it cannot be inflated: %s" % error) from None
        if inflater.eof:
            if inflater.unused_data:
                raise ValueError("more data follows its contents")
            return data, None
        if hasattr(inflater, "needs_input"):
            return data, None if inflater.needs_input else b""
        rest = inflater.unconsumed_tail
        return data, rest if rest or len(data) == PIECE else None
