"""Rules for the names of tests.

Pure, and without an import of this project: a session without shell tests needs them only.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Sequence

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
_EXCLUDED_NAMES = re.compile(r"helper|fixture", re.IGNORECASE)
#: A name without its suffix that people give to tests: test, tests, test-a, a-test, Test_a.
_TEST_WORD = re.compile(r"tests?|tests?[-_].*|.*[-_]tests?", re.IGNORECASE | re.DOTALL)
_PYTHON_SUFFIXES = frozenset([".py", ".pyc", ".pyi", ".pyx", ".pyw"])


def can_be_test(name: str, patterns: Sequence[str] = DEFAULT_PATTERNS) -> bool:
    """Return whether the name is that of a test; cheap, for the many files that are not."""
    suffix = get_suffix(name)
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
    suffix = get_suffix(name)
    if suffix in _PYTHON_SUFFIXES:
        return False
    own, default = _split_patterns(tuple(patterns))
    if _matches(name, suffix, own) or _matches(name, suffix, default):
        return True
    if not default or (suffix and suffix not in SCRIPT_SUFFIXES):
        return False
    return bool(_TEST_WORD.fullmatch(name.removesuffix(suffix)))


def find_excluded_word(name: str) -> str:
    """Return the word for which a default pattern does not match ``name``; empty if it has none."""
    found = _EXCLUDED_NAMES.search(name)
    return found[0] if found else ""


def get_suffix(name: str) -> str:
    """Return ``.sh`` for ``test_a.sh``; empty for a name without a suffix."""
    stem, dot, suffix = name.rpartition(".")
    return dot + suffix if dot and stem else ""


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
