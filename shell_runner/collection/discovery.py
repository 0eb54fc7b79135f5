"""Rules that say which files are tests and how each is run.

Pure: names, modes and first bytes are arguments.  docs/collection.md describes the rules.
"""

from __future__ import annotations

import enum
import fnmatch
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..remote.execution.spawn import is_binary
from ..text import quote_command

#: Default patterns of the file names of tests.
DEFAULT_PATTERNS = ("test_*", "*_test", "*.t", "*.bats")

#: Suffixes of programs that are scripts.
SCRIPT_SUFFIXES = frozenset(
    [
        ".sh", ".bash", ".zsh", ".ksh", ".mksh", ".dash", ".ash", ".fish", ".csh", ".tcsh",
        ".pl", ".raku", ".rb", ".lua", ".tcl", ".exp", ".awk", ".sed", ".php", ".ps1", ".nu",
        ".js", ".mjs", ".cjs", ".ts", ".r", ".R", ".jl", ".scm", ".lisp", ".groovy", ".kts",
        ".t", ".bats",
    ]
)  # fmt: skip
#: Suffixes of tests that need no exec bit, and the command that runs one without a shebang.
_DEFAULT_COMMANDS: Mapping[str, tuple[str, ...]] = {".t": ("perl",), ".bats": ("bats", "--tap")}

#: Bytes at the start of a file that are read.
HEAD_BYTES = 4096
_EXCLUDED_NAMES = re.compile(r"helper|fixture", re.IGNORECASE)
#: A name without its suffix that people give to tests: test, tests, test-a, a-test, Test_a.
_TEST_WORD = re.compile(r"tests?|tests?[-_].*|.*[-_]tests?", re.IGNORECASE | re.DOTALL)
#: A shebang that names perl, and its taint switch, as in ``TAP::Parser::SourceHandler::Perl``.
_PERL_SHEBANG = re.compile(rb"#!.*\bperl")
_TAINT_SWITCH = re.compile(rb"#!.*\bperl.*\s-\w*([Tt])")
_PYTHON_SUFFIXES = frozenset([".py", ".pyc", ".pyi", ".pyx", ".pyw"])


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
        return _get_suffix(self.name)


def _get_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return dot + suffix if dot and stem else ""


def can_be_test(name: str, patterns: Sequence[str] = DEFAULT_PATTERNS) -> bool:
    """Return whether the name is that of a test; cheap, for the many files that are not."""
    suffix = _get_suffix(name)
    if suffix in _PYTHON_SUFFIXES:
        return False
    own, default = _split_patterns(tuple(patterns))
    if own and _matches(name, suffix, own):
        return True
    return _matches(name, suffix, default) and not _EXCLUDED_NAMES.search(name)


def resembles_test(name: str, patterns: Sequence[str] = DEFAULT_PATTERNS) -> bool:
    """Return whether the name is that of a test, or like one; cheap, as ``can_be_test``.

    A user whose patterns include none of the default ones has decided about such names.
    """
    suffix = _get_suffix(name)
    if suffix in _PYTHON_SUFFIXES:
        return False
    own, default = _split_patterns(tuple(patterns))
    if _matches(name, suffix, own) or _matches(name, suffix, default):
        return True
    if not default or (suffix and suffix not in SCRIPT_SUFFIXES):
        return False
    return bool(_TEST_WORD.fullmatch(name.removesuffix(suffix)))


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
    excluded = _EXCLUDED_NAMES.search(file.name)
    if excluded and is_program:
        advice = f"rename it, or add {quote_command(file.name)} to nosejobs_patterns"
        return f"its name contains {excluded[0]!r}: {advice}"
    if excluded or not (is_program or file.head.startswith(b"#!")):
        return ""
    names = " ".join(patterns)
    return f"its name matches no pattern ({names}): rename it, or add one to nosejobs_patterns"


def _matches(name: str, suffix: str, patterns: tuple[str, ...]) -> bool:
    full_names, stems = _compile_patterns(patterns)
    if full_names.match(name):
        return True
    if suffix and suffix not in SCRIPT_SUFFIXES:
        return False
    return bool(stems.match(name.removesuffix(suffix) if suffix else name))


@functools.cache
def _split_patterns(patterns: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the patterns that the user wrote, and the default ones.

    The words helper and fixture exclude only what a default pattern matches.
    """
    own = tuple(each for each in patterns if each not in DEFAULT_PATTERNS)
    return own, tuple(each for each in patterns if each in DEFAULT_PATTERNS)


@functools.cache
def _compile_patterns(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return two regular expressions: of full names, and of names without a script suffix.

    A pattern with a dot is for the full name.
    """
    translated = [
        [fnmatch.translate(each) for each in patterns if ("." in each) == has_dot]
        for has_dot in (True, False)
    ]
    full_names, stems = (re.compile("|".join(each) or r"(?!)") for each in translated)
    return full_names, stems


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
