"""Rules that say which files are tests and how each is run.

Pure: names, modes and first bytes come as arguments.  The rules are those of the
page "collection" of the manual.
"""

from __future__ import annotations

import enum
import fnmatch
import functools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..remote.execution.spawn import is_binary

#: File name patterns of tests, unless the user gives others.
DEFAULT_PATTERNS = ("test_*", "*_test", "*.t", "*.bats")

#: Suffixes of programs that are text.
SCRIPT_SUFFIXES = frozenset(
    [
        ".sh", ".bash", ".zsh", ".ksh", ".mksh", ".dash", ".ash", ".fish", ".csh", ".tcsh",
        ".pl", ".raku", ".rb", ".lua", ".tcl", ".exp", ".awk", ".sed", ".php", ".ps1", ".nu",
        ".js", ".mjs", ".cjs", ".ts", ".r", ".R", ".jl", ".scm", ".lisp", ".groovy", ".kts",
        ".t", ".bats",
    ]
)  # fmt: skip
#: Suffixes of tests whose exec bit does not matter, and what runs one without a shebang.
_RUN_ANYWAY: Mapping[str, tuple[str, ...]] = {".t": ("perl",), ".bats": ("bats", "--tap")}

#: Bytes of a file that are looked at.
HEAD_BYTES = 4096
_NEVER = re.compile(r"helper|fixture", re.IGNORECASE)
_PYTHON = frozenset([".py", ".pyc", ".pyi", ".pyx", ".pyw"])


class FileKind(enum.Enum):
    """What a file is to us."""

    TEST = enum.auto()
    #: Looks like a test and cannot be run: an error that the user sees.
    INVALID = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True)
class Classification:
    """What became of one file."""

    kind: FileKind
    #: What is put in front of the path to run it.
    argv: tuple[str, ...] = ()
    #: For BROKEN: why.
    reason: str = ""


OTHER = Classification(FileKind.OTHER)


@dataclass(frozen=True)
class CandidateFile:
    """A regular file as the rules see it."""

    name: str
    executable: bool
    head: bytes

    @property
    def suffix(self) -> str:
        """``.sh`` of ``test_a.sh``; empty without one."""
        return _suffix(self.name)


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return dot + suffix if dot and stem else ""


def can_be_test(name: str, patterns: Sequence[str] = DEFAULT_PATTERNS) -> bool:
    """By its name alone; cheap, for the many files that are none."""
    suffix = _suffix(name)
    if suffix in _PYTHON:
        return False
    whole, stems = _compiled(tuple(patterns))
    if not (whole.match(name) or _is_script(name, suffix, stems)):
        return False
    return not _NEVER.search(name)


def _is_script(name: str, suffix: str, stems: re.Pattern[str]) -> bool:
    if suffix and suffix not in SCRIPT_SUFFIXES:
        return False
    return bool(stems.match(name.removesuffix(suffix) if suffix else name))


@functools.cache
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of whole names, and those of names without a script's suffix."""
    found = [
        [fnmatch.translate(each) for each in patterns if ("." in each) == whole]
        for whole in (True, False)
    ]
    whole, stems = (re.compile("|".join(each) or r"(?!)") for each in found)
    return whole, stems


def classify(file: CandidateFile, named: bool = False) -> Classification:
    """What ``file`` is, its name being that of a test, or the user having named it."""
    if file.suffix in _RUN_ANYWAY and file.name != file.suffix:
        return _run_anyway(file)
    if file.executable:
        return Classification(FileKind.TEST)
    if named:
        return Classification(FileKind.INVALID, reason=_why_not(file))
    if file.head.startswith(b"#!") and (not file.suffix or file.suffix in SCRIPT_SUFFIXES):
        return Classification(FileKind.INVALID, reason=_why_not(file))
    return OTHER


def _run_anyway(file: CandidateFile) -> Classification:
    """``.bats`` always by bats; ``.t`` by itself, by its shebang, or by perl, as prove(1) does."""
    if file.suffix == ".bats":
        return Classification(FileKind.TEST, _RUN_ANYWAY[".bats"])
    if file.executable and (file.head.startswith(b"#!") or is_binary(file.head)):
        return Classification(FileKind.TEST)
    line = file.head.split(b"\n", 1)[0]
    if line.startswith(b"#!"):
        return Classification(FileKind.TEST, tuple(line[2:].decode("utf-8", "replace").split()))
    return Classification(FileKind.TEST, _RUN_ANYWAY[".t"])


def _why_not(file: CandidateFile) -> str:
    if file.head.startswith(b"#!") or is_binary(file.head):
        return f"not executable: chmod +x {shlex.quote(file.name)}"
    return (
        "it cannot be run: neither executable nor with a shebang "
        f"(put #!/bin/sh on its first line and chmod +x {shlex.quote(file.name)})"
    )
