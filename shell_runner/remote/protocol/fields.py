"""Checks of JSON values that came over a wire: each field has a type and a bound.

Pure.  Must not know what the values mean.  Slots do not load it; what they need is in ``model``.
"""

import re
from typing import Any, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

from .model import MAX_NUMBER, are_strings, is_number

#: Whole numbers are below it, so that a database and every reader of JSON can hold them.
MAX_INTEGER = 1 << 62
#: Items of a list.
MAX_ITEMS = 10_000
#: Characters of a text that is shown.
MAX_TEXT_CHARS = 1000


class InvalidField(ValueError):
    """A value cannot be what its field holds; the message names the field."""


# -- predicates --------------------------------------------------------------------


def is_text(value: Any) -> bool:
    """Return whether it can be an argument, a variable, or part of a path.

    Undecodable bytes are surrogates.
    """
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        return value.encode("utf-8", "surrogateescape") is not None
    except UnicodeEncodeError:
        return False


def is_flag(value: Any) -> bool:
    """Return whether it is true or false."""
    return isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """Return whether it is a number without fraction, of any size."""
    return type(value) is int


def is_digest(value: Any) -> bool:
    """Return whether it is a SHA-256 in hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


# -- checks of values that have names ----------------------------------------------


class Check(NamedTuple):
    """A predicate, and what an error says that a value must be."""

    expected: str
    is_valid: Callable[[Any], bool]


TEXT = Check("a text without NUL", is_text)
FLAG = Check("true or false", is_flag)
INTEGER = Check("a whole number", is_integer)
NUMBER = Check("a number of 0 or more", is_number)
NON_NEGATIVE_INTEGER = Check("a whole number of 0 or more", lambda value: is_integer(value) and is_number(value))


def optional(check: Check) -> Check:
    """Return a check that takes null, too."""
    return Check(
        check.expected + " or null", lambda value: value is None or check.is_valid(value)
    )


def list_of(check: Check) -> Check:
    """Return a check of lists and tuples."""
    return Check(
        "a list, each " + check.expected,
        lambda value: isinstance(value, (list, tuple)) and all(map(check.is_valid, value)),
    )


def pairs_of(check: Check) -> Check:
    """Return a check of pairs of a text and a value."""

    def is_pair(value: Any) -> bool:
        is_two = isinstance(value, (list, tuple)) and len(value) == 2
        return is_two and is_text(value[0]) and check.is_valid(value[1])

    return list_of(Check("a pair of a text and " + check.expected, is_pair))


def check_fields(values: Dict[str, Any], checks: Dict[str, Check]) -> None:
    """Check the values by name; raises InvalidField for the first that is wrong."""
    for name, check in checks.items():
        if name in values and not check.is_valid(values[name]):
            message = "%s must be %s, not %.200r" % (name, check.expected, values[name])
            raise InvalidField(message)


def freeze(value: Any) -> Any:
    """Return lists of JSON, and those inside of them, as tuples."""
    return tuple(map(freeze, value)) if isinstance(value, list) else value


# -- an object of which nothing is believed ----------------------------------------


def _keep(text: str, maximum: int) -> str:
    return text[:maximum]


class Fields:
    """The values of a JSON object; each method raises InvalidField for what cannot be.

    ``clean``: makes a text safe to be shown, with at most so many characters.
    """

    def __init__(self, values: Any, clean: Callable[[str, int], str] = _keep) -> None:
        if not isinstance(values, dict):
            raise InvalidField("no table")
        self._values = values
        self._clean = clean

    def __getitem__(self, key: str) -> Any:
        return self._values.get(key)

    def keys(self, maximum: int = MAX_ITEMS) -> List[str]:
        """Return the keys."""
        if len(self._values) > maximum:
            raise InvalidField("more than %d keys" % maximum)
        return list(self._values)

    def table(self, key: str) -> "Fields":
        """Return an object inside of this one."""
        return Fields(self[key], self._clean)

    def _checked(self, key: str, is_valid: bool) -> Any:
        if not is_valid:
            raise InvalidField("%s %.50r" % (key, self[key]))
        return self[key]

    def text(self, key: str, maximum: int = MAX_TEXT_CHARS) -> str:
        """Return a text that is safe to be shown."""
        return self._clean(self._checked(key, isinstance(self[key], str)), maximum)

    def integer(self, key: str, minimum: int = 0) -> int:
        """Return a number without fraction."""
        value = self[key]
        number: int = self._checked(key, type(value) is int and minimum <= value < MAX_INTEGER)
        return number

    def number(self, key: str) -> float:
        """Return a finite number."""
        return float(self._checked(key, is_number(self[key], -MAX_NUMBER)))

    def timestamp(self, key: str) -> Optional[float]:
        """Return a point in time, or None."""
        return None if self[key] is None else self.number(key)

    def flag(self, key: str) -> bool:
        """Return true or false."""
        return bool(self._checked(key, is_flag(self[key])))

    def digest(self, key: str) -> str:
        """Return a SHA-256, or an empty text."""
        return str(self._checked(key, self[key] == "" or is_digest(self[key])))

    def items(self, key: str, maximum: int = MAX_ITEMS) -> List[Any]:
        """Return a list."""
        value = self[key]
        if not isinstance(value, list) or len(value) > maximum:
            raise InvalidField("%s is no list, or too long" % key)
        return value

    def strings(self, key: str) -> Tuple[str, ...]:
        """Return a list of texts that are safe to be shown."""
        values = self.items(key)
        if not are_strings(values):
            raise InvalidField("%s has something else than texts" % key)
        return tuple(self._clean(value, MAX_TEXT_CHARS) for value in values)

    def counts(self, key: str, names: FrozenSet[str]) -> Dict[str, int]:
        """Return numbers by name, of these names alone."""
        table = self.table(key)
        for name in table.keys():
            if name not in names:
                raise InvalidField("%s %.50r" % (key, name))
        return {name: table.integer(name) for name in table.keys()}
