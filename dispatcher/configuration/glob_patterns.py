"""Patterns of paths and of branches, as ``src/**`` or ``release/*``.

Pure.  ``*``, ``?`` and ``[...]`` mean the same as in the shell and do not match a slash; ``**``
matches any number of folders.  A pattern matches a path and everything below it.  The time of a
match is at most proportional to the length of the pattern times the length of the path.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

#: Matches one part of a path; None stands for ``**``.
_PartMatcher = Callable[[str], object] | None


def compile_patterns(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a path matches one of the patterns."""
    compiled = [_compile(pattern) for pattern in patterns]

    def matches(path: str) -> bool:
        parts = path.split("/")
        return any(_matches(pattern, parts) for pattern in compiled)

    return matches


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> tuple[_PartMatcher, ...]:
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    # A pattern for a folder matches everything in it.
    return tuple(_compile_part(part) for part in [*parts, "**"])


def _compile_part(part: str) -> _PartMatcher:
    if part == "**":
        return None
    # ``**`` inside a part is an ordinary star; adjacent stars would only cost time.
    return re.compile(fnmatch.translate(re.sub(r"\*+", "*", part))).match


def _matches(pattern: Sequence[_PartMatcher], parts: Sequence[str]) -> bool:
    """Match greedily: after a mismatch only the last ``**`` has to match one more part."""
    pattern_index = path_index = 0
    star_index, resume_index = -1, 0
    while path_index < len(parts):
        match_part = pattern[pattern_index] if pattern_index < len(pattern) else _match_nothing
        if match_part is None:
            star_index, resume_index = pattern_index, path_index
            pattern_index += 1
        elif match_part(parts[path_index]):
            pattern_index, path_index = pattern_index + 1, path_index + 1
        elif star_index >= 0:
            resume_index += 1
            pattern_index, path_index = star_index + 1, resume_index
        else:
            return False
    return all(part is None for part in pattern[pattern_index:])


def _match_nothing(part: str) -> object:
    return None
