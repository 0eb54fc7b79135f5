"""Patterns of paths and of branches, as ``src/**`` or ``release/*``.

Pure.  ``*``, ``?`` and ``[...]`` are as in the shell and stop at a slash; ``**`` is any number of
folders.  A pattern is for the path itself and for all below it.  No pattern, whoever wrote it,
takes more time than its length times that of the path, but for a small factor.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

#: A part of a path; None: ``**``.
_Part = Callable[[str], object] | None


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a path matches one of the patterns."""
    compiled = [_compiled(pattern) for pattern in patterns]

    def matches(path: str) -> bool:
        parts = path.split("/")
        return any(_matches(pattern, parts) for pattern in compiled)

    return matches


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> tuple[_Part, ...]:
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    # A folder means what is in it.
    return tuple(_part(part) for part in [*parts, "**"])


def _part(part: str) -> _Part:
    if part == "**":
        return None
    # ``**`` inside of a part is an ordinary star; stars side by side cost time and say nothing.
    return re.compile(fnmatch.translate(re.sub(r"\*+", "*", part))).match


def _matches(pattern: Sequence[_Part], parts: Sequence[str]) -> bool:
    """The greedy way: only the last ``**`` ever has to take one more."""
    at = here = 0
    star, resume = -1, 0
    while here < len(parts):
        wanted = pattern[at] if at < len(pattern) else _nothing
        if wanted is None:
            star, resume = at, here
            at += 1
        elif wanted(parts[here]):
            at, here = at + 1, here + 1
        elif star >= 0:
            resume += 1
            at, here = star + 1, resume
        else:
            return False
    return all(part is None for part in pattern[at:])


def _nothing(part: str) -> object:
    return None
