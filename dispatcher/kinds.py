"""Kinds of values that settings can have: what each takes, and in words what it should have been.

Pure.  Must not know keys.  A kind is a function from what TOML gave to what is kept; it raises
Wrong with words that continue "must be".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .document import Document, dotted, shown

Kind = Callable[[Any], Any]

#: A name becomes a tag, a part of a path, the value of a variable, a word of a command line.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?", re.ASCII)
NAME_WORDS = "1 to 64 letters, digits, '-', '_' and '.'; none of these first, no '-' or '.' last"
#: As ``shell_runner.hosts`` has it.
_LABEL = re.compile(r"\w[\w.-]{0,62}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}", re.ASCII)
_SECONDS = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?(s|min|m|h|d)", re.ASCII)
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
#: A year.
LONGEST = 366 * 86_400.0
#: Entries of a list, characters of a line, of a command, of a variable's value.
_MANY, _LINE, _LONG = 1000, 1000, 65_536


class Wrong(ValueError):
    """A value is not what its key wants; the text says what that is."""


class Secret(Wrong):
    """And the value must not be shown."""


def checked(doc: Document, path: Sequence[str], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """What the table says, by key; BadConfig names file, line and key of what is wrong."""
    doc.check_keys(path, kinds)
    return {key: one(doc, (*path, key), kinds[key], v) for key, v in doc.table(path).items()}


def one(doc: Document, path: Sequence[str], kind: Kind, value: Any) -> Any:
    """One value, checked."""
    try:
        return kind(value)
    except Secret as wrong:
        raise doc.error(path, f"must be {wrong}") from None
    except Wrong as wrong:
        raise doc.error(path, f"must be {wrong}, not {shown(value)}") from None


def is_name(text: str) -> bool:
    """Whether a stage, level, host, pool or source may be called so."""
    return bool(_NAME.fullmatch(text)) and ".." not in text


def check_name(doc: Document, path: Sequence[str], reserved: Mapping[str, str]) -> None:
    """Refuse the last part of the path as a name; ``reserved`` says why, by name."""
    if path[-1] in reserved:
        raise doc.error(path, f"cannot be called so: {reserved[path[-1]]}")
    if not is_name(path[-1]):
        raise doc.error(path, f"is no name for it: a name is {NAME_WORDS}")


def line(value: Any) -> str:
    """A text of one line, not empty."""
    if not isinstance(value, str) or not 0 < len(value) <= _LINE or not value.isprintable():
        raise Wrong(f"a text of one line, at most {_LINE} characters")
    return value


def command(value: Any) -> str:
    """A text for /bin/sh, of any number of lines."""
    if not isinstance(value, str) or len(value) > _LONG or "\0" in value:
        raise Wrong(f"a command of at most {_LONG} characters, without NUL")
    return value


def some_command(value: Any) -> str:
    """A command that is not empty."""
    if not command(value).strip():
        raise Wrong("a command")
    return str(value)


def one_of(*known: str) -> Kind:
    """One of these words."""

    def check(value: Any) -> str:
        if value not in known:
            raise Wrong(" or ".join(f'"{each}"' for each in known))
        return str(value)

    return check


def whole(least: int, most: int) -> Kind:
    """A number without fraction."""

    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise Wrong(f"a whole number, {least} to {most}")
        return value

    return check


def seconds(value: Any) -> float:
    """``90``, ``"90s"``, ``"10m"``, ``"2h"``: more than nothing, at most a year."""
    words = 'a time above 0 and at most a year, as 90, "90s", "10m", "2h" or "7d"'
    if isinstance(value, str):
        found = _SECONDS.fullmatch(value)
        value = float(found[1]) * _UNITS[found[2]] if found else None
    if type(value) not in (int, float) or not 0 < value <= LONGEST or not math.isfinite(value):
        raise Wrong(words)
    return float(value)


def list_of(kind: Kind, what: str, least: int = 0) -> Kind:
    """A list whose elements are all of that kind; what stands in it twice counts once."""

    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not least <= len(value) <= _MANY:
            raise Wrong(f"a list of {least} to {_MANY} {what}")
        try:
            return tuple(dict.fromkeys(map(kind, value)))
        except Wrong as wrong:
            bad = next(each for each in value if not _fits(kind, each))
            raise Wrong(f"a list of {what}; {shown(bad)} is not {wrong}") from None

    return check


def _fits(kind: Kind, value: Any) -> bool:
    try:
        kind(value)
    except Wrong:
        return False
    return True


def label(value: Any) -> str:
    """A label of hosts."""
    if not isinstance(value, str) or not _LABEL.fullmatch(value):
        raise Wrong("a label: letters, digits, '_', '-' and '.'")
    return value


def name(value: Any) -> str:
    """A name of a stage, level or the like."""
    if not isinstance(value, str) or not is_name(value):
        raise Wrong(f"a name: {NAME_WORDS}")
    return value


def inside(value: Any) -> str:
    """A path or pattern that stays in the tree, as ``src/**``; ``dist/`` is kept as ``dist``."""
    text = line(value)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith(("/", "~")) or ".." in parts:
        raise Wrong("a path inside of the tree, without '..'")
    return "/".join(parts) or "."


def variables(value: Any) -> tuple[tuple[str, str], ...]:
    """A table of environment variables, in the order of their names."""
    if not isinstance(value, dict) or len(value) > _MANY:
        raise Wrong(f"a table of at most {_MANY} texts")
    for key, text in value.items():
        _check_variable(key, text)
    return tuple(sorted(value.items()))


def _check_variable(key: str, text: Any) -> None:
    if not _VARIABLE.fullmatch(key):
        raise Wrong(f"a table of variables; {dotted([key])} is no name of one")
    if key.startswith("NOSEJOBS_"):
        raise Wrong(f"without {key}: names that begin with NOSEJOBS_ are ours")
    if not isinstance(text, str) or "\0" in text or len(text) > _LONG:
        raise Wrong(f"a table of texts; {key} is {shown(text)}")
