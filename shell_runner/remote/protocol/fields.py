"""Checks of JSON values that a peer sent: each field has a type and a limit.

Pure.  This module must not know what the values mean.  Slots do not load it; the checks that they
need are in ``model``.
"""

import reprlib
from typing import Any, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

from .model import MAX_NUMBER, are_strings, is_digest, is_number

#: Exclusive upper bound of integers, so that SQLite and every JSON parser can hold them.
MAX_INTEGER = 1 << 62
#: Maximum number of items of a list.
MAX_ITEMS = 10_000
#: Maximum characters of a text that is shown to people.
MAX_TEXT_CHARS = 1000


class InvalidField(ValueError):
    """A value is invalid for its field; the message names the field."""


class _Abbreviation(reprlib.Repr):
    """A representation whose length and depth are bounded, unlike that of :func:`repr`."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 80, 80


_ABBREVIATION = _Abbreviation()


def abbreviate(value: Any) -> str:
    """Return the start of the Python expression of a JSON value, for errors.

    Never fails: :func:`repr` raises RecursionError for a value that is nested too deeply.
    """
    return _ABBREVIATION.repr(value)[:200]


# -- predicates --------------------------------------------------------------------


def is_text(value: Any) -> bool:
    """Return whether ``value`` can be an argument, a variable, or part of a path.

    Undecodable bytes are surrogates.
    """
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        return value.encode("utf-8", "surrogateescape") is not None
    except UnicodeEncodeError:
        return False


def is_flag(value: Any) -> bool:
    """Return whether ``value`` is true or false."""
    return isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """Return whether ``value`` is an integer of any size."""
    return type(value) is int


# -- checks of values that have names ----------------------------------------------


class Check(NamedTuple):
    """A predicate, and a description of valid values that completes "must be"."""

    expected: str
    is_valid: Callable[[Any], bool]


TEXT = Check("a string without NUL", is_text)
FLAG = Check("true or false", is_flag)
INTEGER = Check("an integer", is_integer)
NUMBER = Check("a number of 0 or more", is_number)
NON_NEGATIVE_INTEGER = Check(
    "an integer of 0 or more", lambda value: is_integer(value) and is_number(value)
)


def optional(check: Check) -> Check:
    """Return a check that also accepts null."""
    return Check(check.expected + " or null", lambda value: value is None or check.is_valid(value))


def list_of(check: Check) -> Check:
    """Return a check of lists whose items ``check`` accepts."""
    return Check(
        "a list, each " + check.expected,
        lambda value: isinstance(value, (list, tuple)) and all(map(check.is_valid, value)),
    )


def pairs_of(check: Check) -> Check:
    """Return a check of lists of pairs: a string, and a value that ``check`` accepts."""

    def is_pair(value: Any) -> bool:
        is_two = isinstance(value, (list, tuple)) and len(value) == 2
        return is_two and is_text(value[0]) and check.is_valid(value[1])

    return list_of(Check("a pair of a string and " + check.expected, is_pair))


def check_fields(values: Dict[str, Any], checks: Dict[str, Check]) -> None:
    """Check the values by name; raises InvalidField for the first invalid one."""
    for name, check in checks.items():
        if name in values and not check.is_valid(values[name]):
            message = "%s must be %s, not %s" % (name, check.expected, abbreviate(values[name]))
            raise InvalidField(message)


def freeze(value: Any) -> Any:
    """Return ``value`` with all lists in it, at any depth, as tuples."""
    return tuple(map(freeze, value)) if isinstance(value, list) else value


# -- objects from an untrusted peer ------------------------------------------------


def _truncate(text: str, maximum: int) -> str:
    return text[:maximum]


class Fields:
    """The values of a JSON object; each method raises InvalidField for an invalid value.

    ``sanitize``: makes a text safe to show, cut to a number of characters.
    """

    def __init__(self, values: Any, sanitize: Callable[[str, int], str] = _truncate) -> None:
        if not isinstance(values, dict):
            raise InvalidField("not an object")
        self._values = values
        self._sanitize = sanitize

    def __getitem__(self, key: str) -> Any:
        return self._values.get(key)

    def list_keys(self, maximum: int = MAX_ITEMS) -> List[str]:
        """Return the keys; raises InvalidField for more than ``maximum``."""
        if len(self._values) > maximum:
            raise InvalidField("more than %d keys" % maximum)
        return list(self._values)

    def table(self, key: str) -> "Fields":
        """Return the object under ``key``."""
        return Fields(self[key], self._sanitize)

    def _checked(self, key: str, is_valid: bool) -> Any:
        if not is_valid:
            raise InvalidField("%s %s" % (key, abbreviate(self[key])))
        return self[key]

    def text(self, key: str, maximum: int = MAX_TEXT_CHARS) -> str:
        """Return the string under ``key``, safe to show."""
        return self._sanitize(self._checked(key, isinstance(self[key], str)), maximum)

    def integer(self, key: str, minimum: int = 0) -> int:
        """Return the integer under ``key``, of at least ``minimum``."""
        value = self[key]
        number: int = self._checked(key, type(value) is int and minimum <= value < MAX_INTEGER)
        return number

    def number(self, key: str) -> float:
        """Return the finite number under ``key``."""
        return float(self._checked(key, is_number(self[key], -MAX_NUMBER)))

    def timestamp(self, key: str) -> Optional[float]:
        """Return the seconds since the epoch under ``key``, or None."""
        return None if self[key] is None else self.number(key)

    def flag(self, key: str) -> bool:
        """Return the boolean under ``key``."""
        return bool(self._checked(key, is_flag(self[key])))

    def digest(self, key: str) -> str:
        """Return the SHA-256 digest under ``key``, or an empty text."""
        return str(self._checked(key, self[key] == "" or is_digest(self[key])))

    def items(self, key: str, maximum: int = MAX_ITEMS) -> List[Any]:
        """Return the list under ``key``."""
        value = self[key]
        if not isinstance(value, list) or len(value) > maximum:
            raise InvalidField("%s is not a list, or too long" % key)
        return value

    def strings(self, key: str) -> Tuple[str, ...]:
        """Return the list of strings under ``key``, safe to show."""
        values = self.items(key)
        if not are_strings(values):
            raise InvalidField("%s holds a value that is not a string" % key)
        return tuple(self._sanitize(value, MAX_TEXT_CHARS) for value in values)

    def counts(self, key: str, names: FrozenSet[str]) -> Dict[str, int]:
        """Return the integers under ``key`` by name; raises InvalidField for other ``names``."""
        table = self.table(key)
        for name in table.list_keys():
            if name not in names:
                raise InvalidField("%s %.50r" % (key, name))
        return {name: table.integer(name) for name in table.list_keys()}
