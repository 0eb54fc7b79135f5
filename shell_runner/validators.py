"""Validators: each checks one value of a configuration and returns it in the form that is kept.

Pure.  This module must not know keys or files.  A validator takes a value of TOML, JSON or an
option; it raises InvalidValue with a message that completes "must be".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Validator = Callable[[Any], Any]

# Patterns are strings: a run that checks no value compiles none of them.

#: A name is used as a tag, in paths, variables and command lines.
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?"
NAME_RULE = "1 to 64 letters, digits, '-', '_' and '.'; none of these first, no '-' or '.' last"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,254}"
_DURATION = r"(\d{1,12}(?:\.\d{1,6})?) ?(s|min|m|h|d)?"
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_SIZE = r"(\d{1,15}(?:\.\d{1,6})?) ?(?:([kKMGT])(i?))?B?"
#: Maximum seconds of a duration.
YEAR = 366 * 86_400.0
#: Exclusive upper bound of a size in bytes.
_MAX_SIZE = 1 << 60
#: Maximum entries of a list or table, characters of a line, and characters of a command.
MAX_ITEMS, MAX_LINE_CHARS, MAX_TEXT_CHARS = 1000, 1000, 65_536
#: Maximum characters of an argument or a variable on Linux (MAX_ARG_STRLEN).
MAX_ARGUMENT_CHARS = 1 << 17
#: Maximum characters of a key or a value in an error message.
MAX_SHOWN_CHARS = 60


class InvalidValue(ValueError):
    """A value is not allowed for its key; the message completes "must be"."""

    #: An error may show the value beside the message.
    is_value_shown = True


class InvalidItem(InvalidValue):
    """An item of a list is not allowed; the message shows that item already."""

    is_value_shown = False


class InvalidSecret(InvalidValue):
    """A value that may be secret is not allowed; the message shows only the invalid part."""

    is_value_shown = False


def check(validator: Validator, value: Any, error: Callable[[str], Exception]) -> Any:
    """Return ``value`` in the form that ``validator`` returns.

    If it is invalid, raises the exception that ``error`` returns for a message such as
    "must be true or false, not 3".
    """
    try:
        return validator(value)
    except InvalidValue as invalid:
        suffix = f", not {format_value(value)}" if invalid.is_value_shown else ""
        raise error(f"must be {invalid}{suffix}") from None


# -- texts -----------------------------------------------------------------------------------


def line(maximum: int = MAX_LINE_CHARS, minimum: int = 1) -> Validator:
    """Accept a text of one line."""

    def validate(value: Any) -> str:
        if not isinstance(value, str) or not value.isprintable():
            raise InvalidValue(f"a text of one line, at most {maximum} characters")
        if not minimum <= len(value) <= maximum:
            raise InvalidValue(f"a text of one line, {minimum} to {maximum} characters")
        return value

    return validate


def text(noun: str = "a text", maximum: int = MAX_ARGUMENT_CHARS, empty: bool = True) -> Validator:
    """Accept a text of any number of lines, without NUL."""

    def validate(value: Any) -> str:
        if not isinstance(value, str) or len(value) > maximum or "\0" in value:
            raise InvalidValue(f"{noun} of at most {maximum} characters, without NUL")
        if not empty and not value.strip():
            raise InvalidValue(f"{noun} that is not empty")
        return value

    return validate


def command(empty: bool = True) -> Validator:
    """Accept a command for /bin/sh."""
    return text("a command", MAX_TEXT_CHARS, empty)


def matching(pattern: str, noun: str, flags: int = 0) -> Validator:
    """Accept a text that the regular expression matches as a whole."""

    def validate(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value, flags):
            raise InvalidValue(noun)
        return value

    return validate


#: A label of hosts.
label = matching(r"\w[\w.-]{0,62}", "a label: letters, digits, '_', '-' and '.'", re.ASCII)
#: The name of an environment variable (POSIX, 8.1).
variable = matching(_VARIABLE, "the name of a variable")


def is_name(value: Any) -> bool:
    """Return whether a stage, level, host, pool or source may have this name."""
    return isinstance(value, str) and bool(re.fullmatch(_NAME, value)) and ".." not in value


def name(value: Any) -> str:
    """Accept the name of a stage, level, host, pool or source."""
    if not is_name(value):
        raise InvalidValue(f"a name: {NAME_RULE}")
    return str(value)


def path_in_tree(value: Any) -> str:
    """Accept a path or pattern that stays in the tree, as ``src/**``; keep ``./d/`` as ``d``."""
    path: str = line()(value)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith(("/", "~")) or ".." in parts:
        raise InvalidValue("a path inside of the tree, without '..'")
    return "/".join(parts) or "."


def one_of(*known: str) -> Validator:
    """Accept one of these words."""

    def validate(value: Any) -> str:
        if value not in known:
            raise InvalidValue(" or ".join(f'"{word}"' for word in known))
        return str(value)

    return validate


# -- numbers ---------------------------------------------------------------------------------


def whole(minimum: int, maximum: int) -> Validator:
    """Accept a number without fraction."""

    def validate(value: Any) -> int:
        if type(value) is not int or not minimum <= value <= maximum:
            raise InvalidValue(f"a whole number, {minimum} to {maximum}")
        return value

    return validate


def flag(value: Any) -> bool:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise InvalidValue("true or false")
    return value


def duration(zero: bool = False, maximum: float = YEAR) -> Validator:
    """Accept ``90``, ``"90s"``, ``"10m"``, ``"2h"``, ``"7d"``; keep seconds.

    ``zero``: 0 is allowed.  ``maximum``: seconds.
    """
    bounds = ("of 0 or more" if zero else "above 0") + " and at most a year" * (maximum == YEAR)

    def validate(value: Any) -> float:
        if isinstance(value, str):
            match = re.fullmatch(_DURATION, value, re.ASCII)
            value = float(match[1]) * _SECONDS[match[2] or "s"] if match else None
        is_number = type(value) in (int, float) and 0 <= value <= maximum
        if not is_number or not (value or zero):
            raise InvalidValue(f'a time {bounds}, as 90, "90s", "10m", "2h" or "7d"')
        return float(value)

    return validate


def size(value: Any) -> int:
    """Accept ``"4GiB"``, ``"500 MB"``, or a number of bytes; keep bytes."""
    if type(value) is int and 0 <= value < _MAX_SIZE:
        return value
    match = re.fullmatch(_SIZE, value, re.ASCII) if isinstance(value, str) else None
    if match is None:
        raise InvalidValue('a size as "4GiB", "500MB" or 0')
    number, prefix, binary = match.groups()
    power = " KMGT".index((prefix or " ").upper())
    return int(float(number) * (1024 if binary else 1000) ** power)


# -- lists and tables ------------------------------------------------------------------------


def list_of(
    validator: Validator, noun: str, minimum: int = 0, maximum: int = MAX_ITEMS
) -> Validator:
    """Accept a list of values that ``validator`` accepts; keep each of them once."""
    length = f"{minimum} to {maximum}" if minimum else f"at most {maximum}"

    def validate(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) or not minimum <= len(value) <= maximum:
            raise InvalidValue(f"a list of {length} {noun}")
        kept: dict[Any, None] = {}
        for item in value:
            try:
                kept[validator(item)] = None
            except InvalidValue as invalid:
                message = f"a list of {noun}; {format_value(item)} is not {invalid}"
                raise InvalidItem(message) from None
        return tuple(kept)

    return validate


def variables(maximum: int = MAX_ARGUMENT_CHARS, reserved: str = "") -> Validator:
    """Accept a table of environment variables; keep pairs in the order of the table.

    ``maximum``: characters of a value.  ``reserved``: a prefix that no name may have.
    """

    def validate(value: Any) -> tuple[tuple[str, str], ...]:
        if not isinstance(value, Mapping) or len(value) > MAX_ITEMS:
            raise InvalidValue(f"a table of at most {MAX_ITEMS} texts")
        for key, content in value.items():
            if not re.fullmatch(_VARIABLE, key):
                message = f"a table of variables; {format_key(key)} is not the name of a variable"
                raise InvalidSecret(message)
            if reserved and key.startswith(reserved):
                raise InvalidSecret(f"without {key}: names that begin with {reserved} are reserved")
            if not isinstance(content, str) or "\0" in content or len(content) > maximum:
                raise InvalidSecret(f"a table of texts; {key} is {format_value(content)}")
        return tuple(value.items())

    return validate


# -- what errors show ------------------------------------------------------------------------


def format_value(value: Any) -> str:
    """Return a short form of any value, safe for a terminal."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return f"a number of {value.bit_length()} bits"
    return shorten(repr(value[:200]) if isinstance(value, str) else str(value).lower())


def format_key(key: str) -> str:
    """Return a key as in TOML, quoted if need be, short and safe for a terminal."""
    is_bare = re.fullmatch(r"[A-Za-z0-9_-]+", key) and len(key) <= MAX_SHOWN_CHARS
    return key if is_bare else shorten(repr(key[:200]))


def shorten(content: str, maximum: int = MAX_SHOWN_CHARS) -> str:
    """Return the text, cut to ``maximum`` characters."""
    return content if len(content) <= maximum else f"{content[: maximum - 3]}..."


def format_suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or the list of known words."""
    names = sorted(known)
    return format_similar(word, names) or f"; known: {', '.join(names)}"


def format_similar(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or nothing if no known word is similar."""
    import difflib  # needed for errors only

    close = difflib.get_close_matches(word[:MAX_SHOWN_CHARS], sorted(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
