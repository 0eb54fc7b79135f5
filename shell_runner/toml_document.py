"""A bounded reader of TOML texts that knows the line of each key, for errors.

This module must not know which keys exist.  tomllib keeps no lines, recurses into nested values and
needs quadratic time for long dotted keys.  So the text is scanned for keys first, in linear time,
and a text that is nested too deeply is never passed to tomllib.
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
    format_suggestion,
    format_value,
    is_name,
    shorten,
)

#: Maximum characters of a file.
MAX_CHARS = 1 << 18
#: Maximum parts of a key, and levels of nested values.
MAX_DEPTH = 32
#: Maximum characters of a file that its own user runs, which may be a long list.
MAX_OWN_FILE_CHARS = 1 << 24

#: The parts of a dotted key.
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
_SCALAR = re.compile(r"[^\s,\]}#][^\n,\]}#]*")
_TOMLLIB_POSITION = re.compile(
    r"(.*?) ?\(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL
)


class _NotToml(Exception):
    """The text is not TOML here; tomllib reports the error."""


class _NestedTooDeeply(Exception):
    """A key or value is nested more than MAX_DEPTH levels deep."""


class _Scanner:
    """Finds the lines of the keys of a text; accepts every text that tomllib accepts."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._table: Path = ()
        self.lines: dict[Path, int] = {}

    @property
    def line(self) -> int:
        """Return the line of the current position, from 1."""
        return bisect_right(self._ends, self._position - 1) + 1

    def run(self) -> None:
        """Scan the whole text.

        Raises _NotToml and _NestedTooDeeply.
        """
        while self._skip(_BLANK) < len(self._text):
            if self._take("["):
                self._scan_header()
            else:
                self._scan_pair(self._table, 0)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._position)
        self._position = match.end() if match else self._position
        return self._position

    def _take(self, piece: str) -> bool:
        is_next = self._text.startswith(piece, self._position)
        self._position += len(piece) if is_next else 0
        return is_next

    def _expect(self, piece: str) -> None:
        if not self._take(piece):
            raise _NotToml

    def _expect_match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._position)
        if match is None:
            raise _NotToml
        self._position = match.end()
        return match[0]

    def _scan_header(self) -> None:
        end = "]]" if self._take("[") else "]"
        self._table = self._scan_key(())
        self._expect(end)

    def _scan_pair(self, table: Path, depth: int) -> None:
        key = self._scan_key(table)
        self._expect("=")
        self._skip(_SPACE)
        self._scan_value(key, depth)

    def _scan_key(self, table: Path) -> Path:
        """Scan a dotted key; record the first line of each of its prefixes."""
        path = table
        while True:
            self._skip(_SPACE)
            path = (*path, self._scan_key_part())
            self.lines.setdefault(path, self.line)
            self._skip(_SPACE)
            if not self._take("."):
                return path
            if len(path) >= MAX_DEPTH:
                raise _NestedTooDeeply

    def _scan_key_part(self) -> str:
        if self._text[self._position : self._position + 1] not in ("'", '"'):
            return self._expect_match(_BARE_KEY)
        quoted = self._expect_match(_STRING)
        try:
            return str(tomllib.loads(f"x = {quoted}")["x"])
        except ValueError:
            raise _NotToml from None

    def _scan_value(self, key: Path, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise _NestedTooDeeply
        if self._take("["):
            self._scan_items("]", key, depth)
        elif self._take("{"):
            self._scan_items("}", key, depth)
        elif self._text[self._position : self._position + 1] in ("'", '"'):
            self._expect_match(_STRING)
        else:
            self._expect_match(_SCALAR)

    def _scan_items(self, end: str, key: Path, depth: int) -> None:
        """Scan the items of a list, or of a table on one line."""
        self._skip(_BLANK)
        while not self._take(end):
            if end == "]":
                self._scan_value(key, depth + 1)
            else:
                self._scan_pair(key, depth + 1)
            self._skip(_BLANK)
            if not self._take(",") and self._text[self._position : self._position + 1] != end:
                raise _NotToml
            self._skip(_BLANK)


@dataclass(frozen=True)
class Document:
    """The data of a configuration file, and the lines of its keys."""

    #: The file's name in errors.
    name: str
    data: Mapping[str, Any]
    #: Lines of the keys, from 1; elements of lists have no number in a path.  Empty for a format
    #: without known lines.
    lines: Mapping[Path, int]

    def line(self, path: Sequence[str]) -> int:
        """Return the line of a key, or of the table around it if it is not in the file."""
        for length in range(len(path), 0, -1):
            if tuple(path[:length]) in self.lines:
                return self.lines[tuple(path[:length])]
        return 1

    def format_error(self, path: Sequence[str], message: str) -> str:
        """Return ``nosejobs.toml:7: stages.unit.hosts must be ...``."""
        return f"{self._format_location(path)}: {format_key_path(path)} {message}"

    def _format_location(self, path: Sequence[str]) -> str:
        return f"{self.name}:{self.line(path)}" if self.lines else self.name

    def error(self, path: Sequence[str], message: str) -> InvalidConfig:
        """Return an InvalidConfig for the key at ``path``, to be raised."""
        return InvalidConfig(self.format_error(path, message))

    def table(self, path: Sequence[str]) -> Mapping[str, Any]:
        """Return the table at the path; an empty one if there is none.

        Raises InvalidConfig if the value is not a table.
        """
        value: Any = self.data
        for length, key in enumerate(path, 1):
            value = value.get(key, {})
            if not isinstance(value, dict):
                raise self.error(path[:length], f"must be a table, not {format_value(value)}")
        return dict(value)

    def check_keys(self, path: Sequence[str], known: Iterable[str]) -> None:
        """Raise InvalidConfig for the first unknown key of the table, with a suggestion."""
        names = list(known)
        for key in self.table(path):
            if key not in names:
                where = self._format_location([*path, key])
                hint = format_suggestion(key, names)
                raise InvalidConfig(f"{where}: unknown key {format_key_path([*path, key])!r}{hint}")

    def check_name(self, path: Sequence[str], reserved: Mapping[str, str]) -> None:
        """Raise InvalidConfig if the last part of the path is an invalid or reserved name.

        ``reserved``: reasons by reserved name.
        """
        if path[-1] in reserved:
            raise self.error(path, f"has a reserved name: {reserved[path[-1]]}")
        if not is_name(path[-1]):
            raise self.error(path, f"has an invalid name: a name has {NAME_RULE}")

    def check_value(self, path: Sequence[str], validator: Validator, value: Any) -> Any:
        """Return what the validator keeps of a value; raises InvalidConfig."""
        return check(validator, value, lambda message: self.error(path, message))

    def check_table(
        self, path: Sequence[str], validators: Mapping[str, Validator]
    ) -> dict[str, Any]:
        """Return the checked values of a table by key; raises InvalidConfig."""
        self.check_keys(path, validators)
        return {
            key: self.check_value((*path, key), validators[key], value)
            for key, value in self.table(path).items()
        }


def parse_document(name: str, text: str | bytes, max_chars: int = MAX_CHARS) -> Document:
    """Return the document of a text.

    ``name``: the file's name in errors.  Raises InvalidConfig, which names the line, for a text
    that is not TOML or has more than ``max_chars`` characters.
    """
    if len(text) > max_chars:
        message = f"too large: {len(text)} characters; at most {max_chars} are allowed"
        raise InvalidConfig(f"{name}: {message}")
    text = _decode(name, text)
    scanner = _Scanner(text)
    try:
        with suppress(_NotToml):
            scanner.run()
    except _NestedTooDeeply:
        message = f"a key or a value is nested more than {MAX_DEPTH} deep"
        raise InvalidConfig(f"{name}:{scanner.line}: {message}") from None
    return Document(name, _parse_toml(name, text), scanner.lines)


def _decode(name: str, text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise InvalidConfig(f"{name}:{line}: not UTF-8: {error.reason}") from None


def _parse_toml(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        _raise_syntax_error(name, text, str(error))
    except ValueError:
        # Python's limit, not tomllib's: int() refuses a number of so many digits.
        match = re.search(r"[0-9][0-9_]{999}", text)
        line = text.count("\n", 0, match.start() if match else len(text)) + 1
        raise InvalidConfig(f"{name}:{line}: a number has too many digits") from None


def _raise_syntax_error(name: str, text: str, message: str) -> NoReturn:
    """Raise ``name:3: message`` instead of tomllib's ``(at line 3, column 7)``."""
    match = _TOMLLIB_POSITION.fullmatch(message)
    line = text.count("\n") + 1
    if match:
        message, line = match[1], int(match[2] or line)
    if message == "Invalid value":
        message += ": not TOML (text needs quotes)"
    raise InvalidConfig(f"{name}:{line}: {shorten(message, 200)}") from None


def format_key_path(path: Sequence[str]) -> str:
    """Return the path as in TOML, safe for a terminal."""
    return ".".join(format_key(key) for key in path)
