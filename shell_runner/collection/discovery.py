"""Rules that say which files are tests and how each is run.

Pure: names, modes and first bytes are arguments.  Rules for names alone are in ``file_names``;
docs/collection.md describes all of them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..remote.execution.spawn import is_binary
from ..text import quote_command
from .file_names import (
    DEFAULT_PATTERNS,
    SCRIPT_SUFFIXES,
    can_be_test,
    find_excluded_word,
    get_suffix,
    resembles_test,
)

#: Suffixes of tests that need no exec bit, and the command that runs one without a shebang.
_DEFAULT_COMMANDS: Mapping[str, tuple[str, ...]] = {".t": ("perl",), ".bats": ("bats", "--tap")}

#: Bytes at the start of a file that are read.
HEAD_BYTES = 4096
#: A shebang that names perl, and its taint switch, as in ``TAP::Parser::SourceHandler::Perl``.
_PERL_SHEBANG = re.compile(rb"#!.*\bperl")
_TAINT_SWITCH = re.compile(rb"#!.*\bperl.*\s-\w*([Tt])")


class FileKind(enum.Enum):
    """The kind of a file, as collection sees it."""

    TEST = enum.auto()
    #: The file looks like a test and cannot be run, which is a collection error.
    INVALID = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True)
class Classification:
    """The kind of one file, and the command in front of its path."""

    kind: FileKind
    #: Interpreter and options in front of the path.
    argv: tuple[str, ...] = ()
    #: For INVALID: the reason, for people.
    reason: str = ""


OTHER = Classification(FileKind.OTHER)


@dataclass(frozen=True)
class CandidateFile:
    """The properties of a regular file that the rules need."""

    name: str
    executable: bool
    #: Its first bytes, at most HEAD_BYTES.
    head: bytes

    @property
    def suffix(self) -> str:
        """Return ``.sh`` for ``test_a.sh``; empty for a name without a suffix."""
        return get_suffix(self.name)


def explain_uncollected(file: CandidateFile, patterns: Sequence[str] = DEFAULT_PATTERNS) -> str:
    """Return why a file is not a test although it looks like one; empty if it does not.

    The file is not a test by its name (``can_be_test``) or by its content (``classify``).  Text
    without a script suffix, exec bit and shebang is data.
    """
    is_program = file.executable or file.suffix in _DEFAULT_COMMANDS
    if not resembles_test(file.name, patterns):
        return ""
    if can_be_test(file.name, patterns):
        return _reason_not_runnable(file) if file.suffix and not is_program else ""
    excluded = find_excluded_word(file.name)
    if excluded and is_program:
        advice = f"rename it, or add {quote_command(file.name)} to nosejobs_patterns"
        return f"its name contains {excluded!r}: {advice}"
    if excluded or not (is_program or file.head.startswith(b"#!")):
        return ""
    names = " ".join(patterns)
    return f"its name matches no pattern ({names}): rename it, or add one to nosejobs_patterns"


def classify(file: CandidateFile, is_explicit: bool = False) -> Classification:
    """Classify a file that has the name of a test, or that the user named (``is_explicit``)."""
    if file.suffix in _DEFAULT_COMMANDS and file.name != file.suffix:
        return _classify_interpreted(file)
    if file.executable:
        return Classification(FileKind.TEST)
    if is_explicit:
        return Classification(FileKind.INVALID, reason=_reason_not_runnable(file))
    if file.head.startswith(b"#!") and (not file.suffix or file.suffix in SCRIPT_SUFFIXES):
        return Classification(FileKind.INVALID, reason=_reason_not_runnable(file))
    return OTHER


def _classify_interpreted(file: CandidateFile) -> Classification:
    """Classify ``.bats``, which bats runs, and ``.t``, which runs as with prove(1).

    A ``.t`` whose shebang names perl is run by perl, wherever the shebang says that perl is; perl
    itself reads the other switches there.  Any other one runs by itself if it is executable, else
    by its shebang, else by perl.
    """
    if file.suffix == ".bats":
        return Classification(FileKind.TEST, _DEFAULT_COMMANDS[".bats"])
    line = file.head.split(b"\n", 1)[0]
    if _PERL_SHEBANG.match(line):
        taint = _TAINT_SWITCH.match(line)
        switches = ("-" + taint[1].decode(),) if taint else ()
        return Classification(FileKind.TEST, (*_DEFAULT_COMMANDS[".t"], *switches))
    if file.executable and (file.head.startswith(b"#!") or is_binary(file.head)):
        return Classification(FileKind.TEST)
    if line.startswith(b"#!"):
        return Classification(FileKind.TEST, tuple(line[2:].decode("utf-8", "replace").split()))
    return Classification(FileKind.TEST, _DEFAULT_COMMANDS[".t"])


def _reason_not_runnable(file: CandidateFile) -> str:
    if file.head.startswith(b"#!") or is_binary(file.head):
        return f"not executable: chmod +x {quote_command(file.name)}"
    return (
        "not runnable: neither executable nor with a shebang "
        f"(put #!/bin/sh on its first line and chmod +x {quote_command(file.name)})"
    )
