"""Streaming readers that turn a program's output into cases.

Owns the protocol of a format and the list of those that come with us.  Knows
nothing of pytest, of hosts or of how a program was run; never judges.

A format is a module with a ``NAME`` and one of two shapes:

* It is read from stdout: the module has a class ``Reader``.  The caller feeds it
  bytes in chunks of any size, may stop as soon as ``refused`` is true, and calls
  ``close`` once.  ``close`` returns None when the stream is not of this format.
  ``Reader(forced=True)`` is told that the program speaks the format; it never
  refuses, and output without a trace of the format is a problem.  The optional
  ``SUFFIXES`` names the programs that always speak it.
* It is read from a file that the program wrote: the module has ``PATTERNS`` of
  file names and a function ``read_file``, which returns None when the file is
  not of this format.

What all readers promise: any bytes in any chunks give a Parsed or None and never
an exception; time is linear in the bytes; memory is bounded (see ``bounds``).
"""

from types import ModuleType
from typing import List, Optional, Protocol, Tuple

from ..protocol.model import Parsed

__all__ = ["FileFormat", "StreamReader", "builtin", "suffixes"]


class StreamReader(Protocol):
    """What a format that stands in stdout offers as its ``Reader``."""

    #: True as soon as the stream cannot be of this format.
    refused: bool

    def __init__(self, forced: bool = False) -> None: ...

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""

    def close(self) -> Optional[Parsed]:
        """Say what was understood once the stream has ended."""


class FileFormat(Protocol):
    """What the module of a format that stands in files offers."""

    NAME: str
    PATTERNS: Tuple[str, ...]

    def read_file(self, path: str) -> Optional[Parsed]:
        """Read the cases of one file, or return None if it is another format."""


def builtin() -> List[ModuleType]:
    """The formats that come with us, in the order in which they are asked."""
    # Imported here so that one format can be had without the others.
    from . import gotest, junit, libtest, subunit, tap

    return [tap, subunit, gotest, libtest, junit]


def suffixes(module: ModuleType) -> Tuple[str, ...]:
    """Names of programs that always speak the module's format end with these."""
    found: Tuple[str, ...] = getattr(module, "SUFFIXES", ())
    return found
