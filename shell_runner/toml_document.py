"""A bounded reader of TOML texts that knows the line of each key, for errors.

Must not know which keys there are.  tomllib keeps no lines, recurses into nested values and needs
quadratic time for long dotted keys; so the text is scanned for keys first, in linear time, and
what is nested too deeply never gets to tomllib.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from .errors import InvalidConfig
from .validators import (
    NAME_RULE,
    Validator,
    check,
    format_key,
    format_value,
    is_name,
    shorten,
    format_suggestion,
)

#: Characters of a file, parts of a key, levels of nested values.
MAX_CHARS = 1 << 18
DEEPEST = 32
#: Characters of a file that its own user runs, which may be a long list.
MAX_OWN_FILE_CHARS = 1 << 24

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
    """The data of a configuration file, and the lines of its keys."""

    #: The file's name in errors.
    name: str
    data: Mapping[str, Any]
    #: Empty for a format of which lines are not known.
    lines: Mapping[Path, int]

    def line(self, path: Sequence[str]) -> int:
        """Return the line of a key, or of the table around it if it is not in the file."""
        for length in range(len(path), 0, -1):
            if tuple(path[:length]) in self.lines:
                return self.lines[tuple(path[:length])]
        return 1

    def format_error(self, path: Sequence[str], message: str) -> str:
        """Return ``nosejobs.toml:7: stages.unit.hosts must be ...``."""
        return f"{self._place(path)}: {format_key_path(path)} {message}"

    def _place(self, path: Sequence[str]) -> str:
        return f"{self.name}:{self.line(path)}" if self.lines else self.name

    def error(self, path: Sequence[str], message: str) -> InvalidConfig:
        """Return an exception to raise."""
        return InvalidConfig(self.format_error(path, message))

    def table(self, path: Sequence[str]) -> Mapping[str, Any]:
        """Return the table at the path; an empty one if there is none.

        Raises BadConfig if there is something else.
        """
        value: Any = self.data
        for length, key in enumerate(path, 1):
            value = value.get(key, {})
            if not isinstance(value, dict):
                raise self.error(path[:length], f"must be a table, not {format_value(value)}")
        return dict(value)

    def check_keys(self, path: Sequence[str], known: Iterable[str]) -> None:
        """Raise BadConfig for the first unknown key of the table, with a suggestion."""
        names = list(known)
        for key in self.table(path):
            if key not in names:
                where = self._place([*path, key])
                hint = format_suggestion(key, names)
                raise InvalidConfig(f"{where}: unknown key {format_key_path([*path, key])!r}{hint}")

    def check_name(self, path: Sequence[str], reserved: Mapping[str, str]) -> None:
        """Raise BadConfig if the last part of the path is not a name, or a reserved one.

        ``reserved``: the reason by name.
        """
        if path[-1] in reserved:
            raise self.error(path, f"cannot be called so: {reserved[path[-1]]}")
        if not is_name(path[-1]):
            raise self.error(path, f"is no name for it: a name is {NAME_RULE}")

    def check_value(self, path: Sequence[str], validator: Validator, value: Any) -> Any:
        """Return what the validator keeps of a value; raises BadConfig."""
        return check(validator, value, lambda message: self.error(path, message))

    def check_table(
        self, path: Sequence[str], validators: Mapping[str, Validator]
    ) -> dict[str, Any]:
        """Return the checked values of a table by key; raises BadConfig."""
        self.check_keys(path, validators)
        return {
            key: self.check_value((*path, key), validators[key], value)
            for key, value in self.table(path).items()
        }


def parse_document(name: str, text: str | bytes, max_chars: int = MAX_CHARS) -> Document:
    """Return the document of a text; BadConfig names the line where it is not TOML.

    ``largest``: characters.
    """
    if len(text) > max_chars:
        message = f"it is too large: {len(text)} characters; at most {max_chars} are allowed"
        raise InvalidConfig(f"{name}: {message}")
    text = _decoded(name, text)
    scanner = _Scanner(text)
    try:
        with suppress(_Lost):
            scanner.run()
    except _TooDeep:
        words = f"a key or a value is nested more than {DEEPEST} deep"
        raise InvalidConfig(f"{name}:{scanner.line}: {words}") from None
    return Document(name, _parsed(name, text), scanner.lines)


def _decoded(name: str, text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise InvalidConfig(f"{name}:{line}: this is not UTF-8: {error.reason}") from None


def _parsed(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        _refuse(name, text, str(error))
    except ValueError:
        # Of Python's, not of tomllib's: it converts no number of so many digits.
        found = re.search(r"[0-9][0-9_]{999}", text)
        line = text.count("\n", 0, found.start() if found else len(text)) + 1
        raise InvalidConfig(f"{name}:{line}: a number has too many digits") from None


def _refuse(name: str, text: str, words: str) -> NoReturn:
    """``name:3: what tomllib says`` instead of its ``(at line 3, column 7)``."""
    found = _AT_LINE.fullmatch(words)
    line = text.count("\n") + 1
    if found:
        words, line = found[1], int(found[2] or line)
    raise InvalidConfig(f"{name}:{line}: {shorten(words, 200)}") from None


def format_key_path(path: Sequence[str]) -> str:
    """Return the path as TOML has it, safe for a terminal."""
    return ".".join(format_key(key) for key in path)
