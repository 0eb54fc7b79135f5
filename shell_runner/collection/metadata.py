"""Metadata of tests: the keys, and the comments and tables from which they are read.

Pure: the head of a file and the tables of nosejobs.toml come as arguments.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..config import Config
from ..errors import InvalidMetadata
from ..remote.execution.spawn import is_binary
from ..remote.protocol.model import Test
from ..validators import (
    InvalidValue,
    Validator,
    check,
    duration,
    format_key,
    list_of,
    matching,
    one_of,
    format_suggestion,
    variables,
    whole,
)


@dataclass(frozen=True)
class Metadata:
    """What a test says of itself, or a pattern says of it."""

    #: Seconds; None: the default of the run.
    timeout: float | None = None
    tags: tuple[str, ...] = ()
    #: ``dir`` or ``root``.
    cwd: str = "dir"
    #: ``private`` or ``keep``.
    home: str = "private"
    #: Variables that are passed on from the host.
    pass_env: tuple[str, ...] = ()
    #: Variables that are set.
    env: tuple[tuple[str, str], ...] = ()
    #: Names of which one test at a time has each: over all hosts, or per host (``host:NAME``).
    locks: tuple[str, ...] = ()
    #: Alone on its host.
    serial: bool = False
    #: Labels that its host must have.
    requires: tuple[str, ...] = ()
    #: How often it may run again after a failure; None: as the run says.
    retries: int | None = None
    #: How often it runs; None: as the run says.
    repeat: int | None = None
    #: ``warn``, ``fail`` or ``ignore``.
    leftovers: str = "warn"
    #: Resource limits by name.
    limits: tuple[tuple[str, int], ...] = ()
    #: ``shared`` or ``copy``.
    isolation: str = "shared"


# -- values: a comment has texts only, with commas in lists; a table has values of TOML --------

_FLAGS = {"yes": True, "true": True, "no": False, "false": False}


def _words(pattern: str, noun: str, plural: str) -> Validator:
    """Accept a list, or a text with commas."""
    validate = list_of(matching(pattern, noun), plural)

    def split(value: Any) -> tuple[str, ...]:
        words = value.split(",") if isinstance(value, str) else value
        if isinstance(words, list):
            words = [word.strip() if isinstance(word, str) else word for word in words]
        found: tuple[str, ...] = validate(words)
        return found

    return split


def _seconds(value: Any) -> float:
    """Accept what ``float`` reads, too."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = value
    seconds: float = duration(maximum=1e9)(number)
    return seconds


def _flag(value: Any) -> bool:
    flag = _FLAGS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise InvalidValue("yes or no")
    return flag


def _count(minimum: int, maximum: int) -> Validator:
    validate = whole(minimum, maximum)

    def from_text(value: Any) -> int:
        is_number = isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value)
        count: int = validate(int(value) if is_number else value)
        return count

    return from_text


def _pairs_of(value: Any, separator: str, equals: str, noun: str) -> dict[str, Any]:
    """Return a table, or a text of pairs as one; numbers and dates of a table become texts."""
    if isinstance(value, str):
        return dict(part.partition(equals)[::2] for part in re.split(separator, value))
    if not isinstance(value, dict):
        raise InvalidValue(noun)
    return {name: str(item) if _is_scalar(item) else item for name, item in value.items()}


def _is_scalar(value: Any) -> bool:
    """Return whether it has a short text; Python converts no number of 5000 digits."""
    is_huge = isinstance(value, int) and abs(value) >= 1 << 64
    return not (is_huge or isinstance(value, (dict, list)))


def _variables(value: Any) -> tuple[tuple[str, str], ...]:
    """Accept ``A=1,B=2``, or a table."""
    table = _pairs_of(value, ",", "=", "a table of variables")
    found: tuple[tuple[str, str], ...] = variables()(table)
    return found


#: Resource limits that a test may be given; the seconds and counts have no unit.
LIMITS = ("as", "core", "cpu", "data", "fsize", "memlock", "nofile", "nproc", "stack")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _limits(value: Any) -> tuple[tuple[str, int], ...]:
    """Accept ``as:2g+nofile:256``, or a table."""
    value = value.strip() if isinstance(value, str) else value
    table = _pairs_of(value, r"[+\s]+", ":", "like as:2g+nofile:256")
    return tuple((name, _limit(name, item)) for name, item in table.items())


def _limit(name: str, value: Any) -> int:
    if name not in LIMITS:
        raise InvalidValue(
            f"of known limits; {format_key(name)} is not one{format_suggestion(name, LIMITS)}"
        )
    pattern = r"(\d{1,12})([kmgtKMGT]?)"
    match = re.fullmatch(pattern, value, re.ASCII) if isinstance(value, str) else None
    if match is None:
        raise InvalidValue(f"of numbers, perhaps with k, m, g or t; {name} is not")
    return int(match[1]) * _UNITS[match[2].lower()]


# -- keys ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Key:
    """One key of metadata."""

    field: str
    validator: Validator
    #: Values of several sources add up, instead of the last one winning.
    adds: bool = False


#: Keys that mean "yes" without a value.
_SWITCHES = ("serial",)
#: How the name of a lock begins that each host has for itself.
HOST_LOCK_PREFIX = "host:"
#: A name of a lock or a label: no ``+`` and no comma, which separate them.
_NAME = r"\w[\w.-]*"
_WORD = r"[^\W\d][\w.*:-]*"

_KEYS: Mapping[str, _Key] = {
    "timeout": _Key("timeout", _seconds),
    "tags": _Key("tags", _words(_WORD, "a word", "words"), adds=True),
    "cwd": _Key("cwd", one_of("dir", "root")),
    "home": _Key("home", one_of("private", "keep")),
    "pass": _Key("pass_env", _words(_WORD, "a word", "words"), adds=True),
    "env": _Key("env", _variables, adds=True),
    "lock": _Key(
        "locks", _words(f"({HOST_LOCK_PREFIX})?{_NAME}", "the name of a lock", "names"), adds=True
    ),
    "serial": _Key("serial", _flag),
    "requires": _Key("requires", _words(_NAME, "a label", "names"), adds=True),
    "retries": _Key("retries", _count(0, 100)),
    "repeat": _Key("repeat", _count(1, 10_000)),
    "leftovers": _Key("leftovers", one_of("warn", "fail", "ignore")),
    "limits": _Key("limits", _limits, adds=True),
    "isolation": _Key("isolation", one_of("shared", "copy")),
}


def _error(file: str, line: int | str, key: str, message: str) -> InvalidMetadata:
    return InvalidMetadata(f"{file}:{line}: {format_key(key)}: {message}")


def apply_values(base: Metadata, values: Mapping[str, Any], file: str, line: int | str) -> Metadata:
    """Return ``base`` with ``values`` on top; BadMetadata names file, line and key."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        error = partial(_error, file, line, name)
        key = _KEYS.get(name)
        if key is None:
            raise error(f"unknown key{format_suggestion(name, _KEYS)}")
        kept = check(key.validator, value, error)
        if key.adds:
            old = changes.get(key.field, getattr(base, key.field))
            kept = (*old, *(item for item in kept if item not in old))
        changes[key.field] = kept
    return replace(base, **changes) if changes else base


def resolve_metadata(base: Metadata, tree: Config, name: str, head: bytes) -> Metadata:
    """Return ``base`` with the patterns of nosejobs.toml and the file's own comment on top.

    Raises BadMetadata.
    """
    for pattern, values in tree.patterns:
        if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(_base(name), pattern):
            base = apply_values(base, values, str(tree.path), f"[tests.{pattern!r}]")
    return read_metadata(base, name, head)


def resolve_defaults(base: Metadata, tree: Config) -> Metadata:
    """Return ``base`` with what nosejobs.toml says of all tests on top; raises BadMetadata."""
    check_tests_tables(tree)
    return apply_values(base, tree.defaults, str(tree.path), "[tests]")


def check_tests_tables(tree: Config) -> None:
    """Check ``[tests]`` key by key, and patterns that match no test as well.

    Raises BadMetadata that names file, line, pattern and key.
    """
    document = tree.document
    if document is None:
        return
    tables: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [(("tests",), tree.defaults)]
    tables += [(("tests", pattern), values) for pattern, values in tree.patterns]
    for path, values in tables:
        name = ".".join(format_key(part) for part in path)
        for key, value in values.items():
            where = f"{document.line((*path, key))}: [{name}]"
            apply_values(Metadata(), {key: value}, document.name, where)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def make_test(
    number: int, path: str, argv: tuple[str, ...], said: Metadata, timeout: float, spoken: str = ""
) -> Test:
    """What a host needs to know of a test; ``spoken``: the format that it is known to speak."""
    return Test(
        id=number,
        path=path,
        timeout=timeout,
        argv=argv,
        cwd=said.cwd,
        home=said.home,
        env=said.env,
        pass_env=said.pass_env,
        output_format=spoken,
        leftovers=said.leftovers,
        limits=said.limits,
        isolation=said.isolation,
        locks=host_locks(said),
        serial=said.serial,
    )


def host_locks(metadata: Metadata) -> tuple[str, ...]:
    """Return the names of the ``host:`` locks, as the host knows them."""
    found = (name for name in metadata.locks if name.startswith(HOST_LOCK_PREFIX))
    return tuple(sorted(name.removeprefix(HOST_LOCK_PREFIX) for name in found))


_COMMENT = re.compile(r"\s*(?:#|//|--|;|%|\"|/?\*)+\s*(.*)")
_OURS = re.compile(r"nosejobs:\s*(.*)")
_FORGOTTEN = re.compile(r"nosejobs?\s*:?\s+[a-z-]+=")
_BATS = re.compile(r"bats\s+(?:test|file)_tags=(.*)")


def comments(head: bytes) -> Iterable[tuple[int, str]]:
    """Yield the lines of the leading comment, numbered from 1, without their marks."""
    for number, line in enumerate(head.decode("utf-8", "replace").splitlines(), 1):
        found = _COMMENT.match(line)
        if found:
            yield number, found[1]
        elif line.strip():
            return


def read_metadata(base: Metadata, file: str, head: bytes) -> Metadata:
    """Return ``base`` with the leading comment's keys on top; raises BadMetadata."""
    if b"nosejob" in head and not is_binary(head):
        for number, text in comments(head):
            found = _OURS.match(text)
            if not found and _FORGOTTEN.match(text):
                raise _error(file, number, "nosejobs", "is written # nosejobs: key=value")
            if found:
                base = apply_values(base, _pairs(file, number, found[1]), file, number)
    if b"bats " in head and file.endswith(".bats"):
        base = _bats_tags(base, file, head)
    return base


def _bats_tags(base: Metadata, file: str, head: bytes) -> Metadata:
    for number, line in enumerate(head.decode("utf-8", "replace").splitlines(), 1):
        comment = _COMMENT.match(line)
        found = _BATS.match(comment[1]) if comment else None
        if found:
            tags = ",".join(part.strip() for part in found[1].split(",") if part.strip())
            base = apply_values(base, {"tags": tags}, file, number)
    return base


def _pairs(file: str, line: int, text: str) -> dict[str, str]:
    try:
        words = shlex.split(text.removesuffix("*/"), comments=True)
    except ValueError as error:
        raise _error(file, line, "nosejobs", str(error)) from None
    pairs: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            if key in _KEYS and key not in _SWITCHES:
                message = f"needs a value: {key}=..., with no spaces around ="
                raise _error(file, line, key, message)
            value = "yes"
        if key in pairs:
            raise _error(file, line, key, "is given twice")
        pairs[key] = value
    return pairs
