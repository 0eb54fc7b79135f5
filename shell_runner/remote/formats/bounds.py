"""How much a reader keeps, however much a program writes.

Owns the limits and the small containers that hold to them.  Knows no format.
"""

import math
import re
from typing import List, Optional

from ..protocol.model import Case

#: Bytes kept of one line of text; the rest of the line is dropped.
MAX_LINE = 64 * 1024
#: Characters kept of a case's details, and of its name.
MAX_DETAILS = 64 * 1024
MAX_NAME = 4096
MAX_MESSAGE = 8192
#: Cases kept of one stream, and characters kept in all of them together.
MAX_CASES = 1000000
MAX_TEXT = 256 * 1024 * 1024
#: Characters of details that may wait for the end of cases that are still running.
MAX_HELD = 64 * 1024 * 1024
#: Properties kept of one case.
MAX_PROPERTIES = 100
#: A case costs this much beside its text, when room is counted.
_OVERHEAD = 64

#: ``new_case(Case, (...))`` with all the fields costs a quarter of ``Case(...)``,
#: which counts where there are a hundred thousand.
new_case = tuple.__new__

_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]*)?\Z")


def clip(text: str, limit: int = MAX_NAME) -> str:
    """The text, shortened visibly if it is longer than the limit."""
    return text if len(text) <= limit else text[: limit - 1] + "\u2026"


def seconds(value: object) -> Optional[float]:
    """A duration as a number that can be added up, else None.

    Surefire writes thousands with commas ("1,234.5"); some locales write a
    decimal comma ("0,005").
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = _with_commas(value)
    # Neither NaN nor infinity passes this comparison.
    return number if 0 <= number < math.inf else None


def _with_commas(value: object) -> float:
    if not isinstance(value, str) or "," not in value:
        return math.nan
    text = value.strip()[:64]
    try:
        return float(text.replace(",", "" if _THOUSANDS.match(text) else "."))
    except ValueError:
        return math.nan


class Excerpt:
    """The beginning of a text that may be endless."""

    __slots__ = ("_parts", "_room", "dropped")

    def __init__(self, room: int = MAX_DETAILS) -> None:
        self._parts: List[str] = []
        self._room = room
        self.dropped = 0

    def add(self, text: str) -> int:
        """Keep what there is room for; return how much that was."""
        kept = text[: self._room] if self._room else ""
        if kept:
            self._parts.append(kept)
            self._room -= len(kept)
        self.dropped += len(text) - len(kept)
        return len(kept)

    def __bool__(self) -> bool:
        return bool(self._parts)

    def text(self) -> str:
        """All that was kept, saying how much was not."""
        kept = "".join(self._parts)
        return kept + "\n[%d more characters]" % self.dropped if self.dropped else kept


class Collector:
    """The cases of a stream, as many as there is room for."""

    __slots__ = ("_limit", "_room", "cases", "problem")

    def __init__(self) -> None:
        self.cases: List[Case] = []
        self.problem = ""
        self._limit = MAX_CASES
        self._room = MAX_TEXT

    def add(self, case: Case) -> bool:
        """Keep the case; False when there is no room for it."""
        size = _size(case)
        if size > self._room or len(self.cases) >= self._limit:
            return self._squeeze(case)
        self._room -= size
        self.cases.append(case)
        return True

    def charge(self, characters: int) -> bool:
        """Take room for something other than a case; False when there is none."""
        if characters > self._room:
            self.problem = self.problem or "the cases hold too much text"
            return False
        self._room -= characters
        return True

    def _squeeze(self, case: Case) -> bool:
        if len(self.cases) >= self._limit:
            self.problem = "more than %d cases" % self._limit
            return False
        if case.details:
            return self.add(case._replace(details=""))
        self.problem = "the cases hold too much text"
        return False

    def amend_last(self, case: Case) -> None:
        """Put a fuller version of the last case in its place."""
        last = self.cases.pop()
        self._room += _size(last)
        if not self.add(case):
            self.cases.append(last)

    def drop_from(self, start: int) -> None:
        """Forget the cases from the given position on."""
        del self.cases[start:]


def _size(case: Case) -> int:
    name, _, message, details, _, _, properties = case
    size = _OVERHEAD + len(name) + len(message) + len(details)
    if properties:
        size += sum(len(key) + len(value) for key, value in properties)
    return size
