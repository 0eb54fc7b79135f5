"""Streaming readers that turn a program's output into cases, one module for each format.

Defines what a format provides, and lists the built-in ones.  This package must not know pytest,
hosts or how a program was run, and it judges nothing.

A format is a module with a ``NAME`` and one of two shapes:

* It is read from stdout: the module has a class ``Reader``.  The caller feeds it
  bytes in chunks of any size, may stop as soon as ``refused`` is true, and calls
  ``close`` once.  ``close`` returns None when the stream is not of this format.
  ``Reader(forced=True)`` means that the program is known to write the format: the reader never
  refuses, and output without a trace of the format is a problem.  The optional
  ``SUFFIXES`` lists the suffixes of programs that always write it.
* It is read from a file that the program wrote: the module has ``PATTERNS`` of
  file names and a function ``read_file``, which returns None when the file is
  not of this format.

All readers guarantee: any bytes in any chunks give a ParsedOutput or None and never
an exception; time is linear in the bytes; memory is bounded (see ``bounds``).
"""

from types import ModuleType
from typing import Dict, Optional, Protocol, Tuple

from ..protocol.model import ParsedOutput

__all__ = ["BUILTIN_NAMES", "BUILTIN_SUFFIXES", "FileFormat", "StreamReader", "get_suffixes"]

#: Names of the built-in formats, in the order in which they are tried.  Each is a module here; a
#: controller needs the names alone, and does not spend time on loading readers.
BUILTIN_NAMES = ("tap", "subunit", "gotest", "libtest", "junit")

#: Names of built-in formats by the suffix of programs that always write them: ``SUFFIXES`` of all
#: their modules.
BUILTIN_SUFFIXES: Dict[str, str] = {".t": "tap", ".bats": "tap"}


class StreamReader(Protocol):
    """The class ``Reader`` of a format that is read from stdout."""

    #: True as soon as the stream cannot be of this format.
    refused: bool

    def __init__(self, forced: bool = False) -> None: ...

    def feed(self, data: bytes) -> None:
        """Read the next bytes of the stream."""

    def close(self) -> Optional[ParsedOutput]:
        """Return what was read, once the stream has ended; None if it is another format."""


class FileFormat(Protocol):
    """The module of a format that is read from files."""

    NAME: str
    PATTERNS: Tuple[str, ...]

    def read_file(self, path: str) -> Optional[ParsedOutput]:
        """Return the cases of one file, or None if it is another format."""


def get_suffixes(module: ModuleType) -> Tuple[str, ...]:
    """Return the suffixes of programs that always write the module's format."""
    suffixes: Tuple[str, ...] = getattr(module, "SUFFIXES", ())
    return suffixes
