"""A TOML text that nobody has vouched for: its data, and the line of each key.

Owns bounds, lines, and the form of an error.  Must not know which keys there are.  tomllib says
nothing of lines once it has read a text, recurses into nested values and needs quadratic time for
long dotted keys; so the text is scanned for keys first, in linear time, and what is nested too
deeply never gets to tomllib.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from shell_runner.config import suggestion
from shell_runner.errors import BadConfig

#: Characters of a file, parts of a key, levels of nested values.
LARGEST = 1 << 18
DEEPEST = 32
#: Characters of a key or of a value that an error shows.
_SHOWN = 60

Path = tuple[str, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*+")
_SPACE = re.compile(r"[ \t]*+")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\(?s:.)|"{1,2}(?!"))*+"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*+'{3,5}"
    r'|"(?!"")(?:[^"\\\n]|\\.)*+"'
    r"|'(?!'')[^'\n]*+'"
)
#: Numbers, dates (which can hold a space), true and false.
_PLAIN = re.compile(r"[^\s,\]}#][^\n,\]}#]*")
_AT_LINE = re.compile(r"(.*?) ?\(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)


class _Lost(Exception):
    """The text is no TOML here; tomllib says it better."""


class _TooDeep(Exception):
    """Nothing that is meant is nested so deeply."""


class _Scanner:
    """Finds the keys of a text; lenient: whatever tomllib takes, it understands."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._ends = [found.start() for found in re.finditer("\n", text)]
        self._table: Path = ()
        self.lines: dict[Path, int] = {}

    @property
    def line(self) -> int:
        """The line that it has come to."""
        return bisect_right(self._ends, self._at - 1) + 1

    def run(self) -> None:
        """Read all of it."""
        while self._skip(_BLANK) < len(self._text):
            if self._take("["):
                self._header()
            else:
                self._pair(self._table, 0)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._at

    def _take(self, piece: str) -> bool:
        taken = self._text.startswith(piece, self._at)
        self._at += len(piece) if taken else 0
        return taken

    def _expect(self, piece: str) -> None:
        if not self._take(piece):
            raise _Lost

    def _word(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise _Lost
        self._at = found.end()
        return found[0]

    def _header(self) -> None:
        end = "]]" if self._take("[") else "]"
        self._table = self._key(())
        self._expect(end)

    def _pair(self, table: Path, depth: int) -> None:
        key = self._key(table)
        self._expect("=")
        self._skip(_SPACE)
        self._value(key, depth)

    def _key(self, table: Path) -> Path:
        """A dotted key; each of its parts is remembered where it stood first."""
        path = table
        while True:
            self._skip(_SPACE)
            path = (*path, self._part())
            self.lines.setdefault(path, self.line)
            self._skip(_SPACE)
            if not self._take("."):
                return path
            if len(path) >= DEEPEST:
                raise _TooDeep

    def _part(self) -> str:
        if self._text[self._at : self._at + 1] not in ("'", '"'):
            return self._word(_BARE_KEY)
        quoted = self._word(_STRING)
        try:
            return str(tomllib.loads(f"x = {quoted}")["x"])
        except ValueError:
            raise _Lost from None

    def _value(self, key: Path, depth: int) -> None:
        if depth >= DEEPEST:
            raise _TooDeep
        if self._take("["):
            self._items("]", key, depth)
        elif self._take("{"):
            self._items("}", key, depth)
        elif self._text[self._at : self._at + 1] in ("'", '"'):
            self._word(_STRING)
        else:
            self._word(_PLAIN)

    def _items(self, end: str, key: Path, depth: int) -> None:
        """What is in a list, or in a table on one line."""
        self._skip(_BLANK)
        while not self._take(end):
            if end == "]":
                self._value(key, depth + 1)
            else:
                self._pair(key, depth + 1)
            self._skip(_BLANK)
            if not self._take(",") and self._text[self._at : self._at + 1] != end:
                raise _Lost
            self._skip(_BLANK)


def key_lines(text: str) -> Mapping[Path, int]:
    """The line of each key, from 1; elements of lists have no number in a path.

    Of a text that is no TOML: those before the trouble.
    """
    scanner = _Scanner(text)
    with suppress(_Lost):
        scanner.run()
    return scanner.lines


@dataclass(frozen=True)
class Document:
    """A text that is TOML."""

    #: What errors call it.
    name: str
    data: Mapping[str, Any]
    lines: Mapping[Path, int]

    def line(self, path: Sequence[str]) -> int:
        """Where the key stands; that of the table around it if it does not stand anywhere."""
        for length in range(len(path), 0, -1):
            if tuple(path[:length]) in self.lines:
                return self.lines[tuple(path[:length])]
        return 1

    def words(self, path: Sequence[str], words: str) -> str:
        """``nosejobs.toml:7: stages.unit.hosts must be ...``."""
        return f"{self.name}:{self.line(path)}: {dotted(path)} {words}"

    def error(self, path: Sequence[str], words: str) -> BadConfig:
        """To be raised."""
        return BadConfig(self.words(path, words))

    def table(self, path: Sequence[str]) -> Mapping[str, Any]:
        """The table at the path; empty if there is none.  Raises BadConfig if it is another."""
        found: Any = self.data
        for length, key in enumerate(path, 1):
            found = found.get(key, {})
            if not isinstance(found, dict):
                raise self.error(path[:length], f"must be a table, not {shown(found)}")
        return dict(found)

    def check_keys(self, path: Sequence[str], known: Iterable[str]) -> None:
        """Refuse the first key of the table that is not known, with a suggestion."""
        names = list(known)
        for key in self.table(path):
            if key not in names:
                words = suggestion(key[:_SHOWN], names)
                raise self.error([*path, key], f"is no key that is known{words}")


def read(name: str, text: str | bytes) -> Document:
    """The document of a text; BadConfig names the line where it is none."""
    if len(text) > LARGEST:
        words = f"it is too large: {len(text)}; a file of settings has at most {LARGEST} characters"
        raise BadConfig(f"{name}: {words}")
    text = _decoded(name, text)
    scanner = _Scanner(text)
    try:
        with suppress(_Lost):
            scanner.run()
    except _TooDeep:
        words = f"a key or a value is nested more than {DEEPEST} deep"
        raise BadConfig(f"{name}:{scanner.line}: {words}") from None
    return Document(name, _parsed(name, text), scanner.lines)


def _decoded(name: str, text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise BadConfig(f"{name}:{line}: this is not UTF-8: {error.reason}") from None


def _parsed(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        _refuse(name, text, str(error))
    except ValueError:
        # Of Python's, not of tomllib's: it converts no number of so many digits.
        found = re.search(r"[0-9][0-9_]{999}", text)
        line = text.count("\n", 0, found.start() if found else len(text)) + 1
        raise BadConfig(f"{name}:{line}: a number has too many digits") from None


def _refuse(name: str, text: str, words: str) -> NoReturn:
    """``name:3: what tomllib says`` instead of its ``(at line 3, column 7)``."""
    found = _AT_LINE.fullmatch(words)
    line = text.count("\n") + 1
    if found:
        words, line = found[1], int(found[2] or line)
    raise BadConfig(f"{name}:{line}: {_short(words, 200)}") from None


def dotted(path: Sequence[str]) -> str:
    """The path as it would be written, safe for a terminal."""
    return ".".join(_key_shown(each) for each in path)


def _key_shown(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) and len(key) <= _SHOWN else _short(repr(key[:200]))


def shown(value: Any) -> str:
    """A value for an error: short, safe for a terminal, whatever it is."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return f"a number of {value.bit_length()} bits"
    return _short(repr(value[:200]) if isinstance(value, str) else str(value).lower())


def _short(text: str, most: int = _SHOWN) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
