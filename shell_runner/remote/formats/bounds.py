"""Limits on what a reader keeps, however much a program writes, and containers that enforce them.

This module must not know a format.
"""

import math
import re
from typing import List, Optional

from ..protocol.model import MAX_NUMBER, Case

#: Bytes kept of one line of text; the rest of the line is dropped.
MAX_LINE_BYTES = 64 * 1024
#: Characters kept of a case's details, name and message.
MAX_DETAILS_CHARS = 64 * 1024
MAX_NAME_CHARS = 4096
MAX_MESSAGE_CHARS = 8192
#: Cases kept of one stream, and characters kept in all of them together.
MAX_CASES = 1000000
MAX_TOTAL_CHARS = 256 * 1024 * 1024
#: Characters of details that may be held for tests that are still running.
MAX_PENDING_CHARS = 64 * 1024 * 1024
#: Properties kept of one case.
MAX_PROPERTIES = 100
#: Characters that a case takes from MAX_TOTAL_CHARS in addition to its text.
_CASE_OVERHEAD_CHARS = 64

#: ``new_case(Case, (...))`` with all the fields costs a quarter of ``Case(...)``,
#: which counts where there are a hundred thousand.
new_case = tuple.__new__

_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]*)?\Z")


def truncate(text: str, limit: int = MAX_NAME_CHARS) -> str:
    """Return the text, cut to ``limit`` characters; an ellipsis ends a text that was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "\u2026"


def parse_seconds(value: object) -> Optional[float]:
    """Return a duration from 0 to below MAX_NUMBER, the limit of a message, or None.

    Surefire writes thousands with commas ("1,234.5"); some locales write a
    decimal comma ("0,005").
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = _parse_with_commas(value)
    # Neither NaN nor infinity passes this comparison.
    return number if 0 <= number < MAX_NUMBER else None


def _parse_with_commas(value: object) -> float:
    if not isinstance(value, str) or "," not in value:
        return math.nan
    text = value.strip()[:64]
    try:
        return float(text.replace(",", "" if _THOUSANDS.match(text) else "."))
    except ValueError:
        return math.nan


class Excerpt:
    """The first ``max_chars`` characters of a text of any length."""

    __slots__ = ("_free_chars", "_parts", "dropped_chars")

    def __init__(self, max_chars: int = MAX_DETAILS_CHARS) -> None:
        self._parts: List[str] = []
        self._free_chars = max_chars
        self.dropped_chars = 0

    def add(self, text: str) -> int:
        """Keep the beginning of ``text`` that fits.  Return the number of characters kept."""
        kept = text[: self._free_chars] if self._free_chars else ""
        if kept:
            self._parts.append(kept)
            self._free_chars -= len(kept)
        self.dropped_chars += len(text) - len(kept)
        return len(kept)

    def __bool__(self) -> bool:
        return bool(self._parts)

    def text(self) -> str:
        """Return what was kept; a last line says how many characters were dropped."""
        kept = "".join(self._parts)
        if not self.dropped_chars:
            return kept
        return kept + "\n[%d more characters]" % self.dropped_chars


class CaseCollector:
    """The cases of one stream, up to ``MAX_CASES`` and ``MAX_TOTAL_CHARS``."""

    __slots__ = ("_free_chars", "_max_cases", "cases", "problem")

    def __init__(self) -> None:
        self.cases: List[Case] = []
        #: The limit that was reached, or an empty text.
        self.problem = ""
        self._max_cases = MAX_CASES
        self._free_chars = MAX_TOTAL_CHARS

    def add(self, case: Case) -> bool:
        """Keep the case, without its details if need be.  Return False if it does not fit."""
        size = _case_size(case)
        if size > self._free_chars or len(self.cases) >= self._max_cases:
            return self._add_without_details(case)
        self._free_chars -= size
        self.cases.append(case)
        return True

    def reserve(self, chars: int) -> bool:
        """Count characters that are not part of a case.  Return False if they do not fit."""
        if chars > self._free_chars:
            self.problem = self.problem or "the cases hold too much text"
            return False
        self._free_chars -= chars
        return True

    def _add_without_details(self, case: Case) -> bool:
        if len(self.cases) >= self._max_cases:
            self.problem = "more than %d cases" % self._max_cases
            return False
        if case.details:
            return self.add(case._replace(details=""))
        self.problem = "the cases hold too much text"
        return False

    def replace_last(self, case: Case) -> None:
        """Replace the last case by a fuller version of it, if that fits."""
        last = self.cases.pop()
        self._free_chars += _case_size(last)
        if not self.add(case):
            self.cases.append(last)

    def discard_from(self, start: int) -> None:
        """Remove the cases from index ``start`` on; their characters stay counted."""
        del self.cases[start:]


def _case_size(case: Case) -> int:
    name, _, message, details, _, _, properties = case
    size = _CASE_OVERHEAD_CHARS + len(name) + len(message) + len(details)
    if properties:
        size += sum(len(key) + len(value) for key, value in properties)
    return size
