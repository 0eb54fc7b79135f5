"""Metadata of tests: the keys, and the comments and tables from which they are read.

Pure: the head of a file and the tables of nosejobs.toml are arguments.
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
    format_suggestion,
    list_of,
    matching,
    one_of,
    variables,
    whole,
)


@dataclass(frozen=True)
class Metadata:
    """Settings of a test, from its comment, from nosejobs.toml and from the ini file."""

    #: Seconds until the test is stopped; None: the default of the run.
    timeout: float | None = None
    #: Markers of the test.
    tags: tuple[str, ...] = ()
    #: Working directory: ``dir``, the program's own, or ``root``, the root of the tree.
    cwd: str = "dir"
    #: ``private``: an empty HOME; ``keep``: the HOME of the host's user.
    home: str = "private"
    #: Names of environment variables that are passed on from the host; ``*`` allowed.
    pass_env: tuple[str, ...] = ()
    #: Environment variables: pairs of name and value.
    env: tuple[tuple[str, str], ...] = ()
    #: Names of locks that one test at a time holds: on all hosts, or per host (``host:NAME``).
    locks: tuple[str, ...] = ()
    #: No other test runs on the host at the same time.
    serial: bool = False
    #: Labels that the host must have.
    requires: tuple[str, ...] = ()
    #: Maximum reruns after a failure; None: the default of the run.
    retries: int | None = None
    #: Number of runs; None: the default of the run.
    repeat: int | None = None
    #: Effect of processes that outlive the program: ``warn``, ``fail`` or ``ignore``.
    leftovers: str = "warn"
    #: Resource limits: pairs of name and value, in the unit of setrlimit(2).
    limits: tuple[tuple[str, int], ...] = ()
    #: Tree of files: ``shared`` with the session, or a private ``copy``.
    isolation: str = "shared"
    #: Name of the preset whose values were applied; empty: none.
    preset: str = ""
    #: Words of the command that runs the program, with ``{file}`` and ``{root}``; empty: the
    #: program itself, or its interpreter.
    run: tuple[str, ...] = ()
    #: Arguments after all other words of the command.
    args: tuple[str, ...] = ()


# -- values: those of a comment are strings, with commas in lists; a table has TOML values -----

#: Seconds until a test is stopped, unless it or the run sets another limit.
DEFAULT_TIMEOUT = 600.0
_FLAGS = {"yes": True, "true": True, "no": False, "false": False}


def _word_list(pattern: str, noun: str, plural: str) -> Validator:
    """Return a validator that accepts a list, or a string with commas."""
    validate = list_of(matching(pattern, noun), plural)

    def split(value: Any) -> tuple[str, ...]:
        words = value.split(",") if isinstance(value, str) else value
        if isinstance(words, list):
            words = [word.strip() if isinstance(word, str) else word for word in words]
        checked: tuple[str, ...] = validate(words)
        return checked

    return split


def _seconds(value: Any) -> float:
    """Accept a duration, also in any form that ``float`` parses."""
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


def _parse_table(value: Any, separator: str, equals: str, noun: str) -> dict[str, Any]:
    """Return a table, or the table of a string of pairs; scalar values become strings."""
    if isinstance(value, str):
        return dict(part.partition(equals)[::2] for part in re.split(separator, value))
    if not isinstance(value, dict):
        raise InvalidValue(noun)
    return {name: str(item) if _is_scalar(item) else item for name, item in value.items()}


def _is_scalar(value: Any) -> bool:
    """Return whether ``value`` is a scalar with a short text; Python refuses 5000 digits."""
    is_huge = isinstance(value, int) and abs(value) >= 1 << 64
    return not (is_huge or isinstance(value, (dict, list)))


def _variables(value: Any) -> tuple[tuple[str, str], ...]:
    """Accept ``A=1,B=2``, or a table."""
    table = _parse_table(value, ",", "=", "a table of variables")
    checked: tuple[tuple[str, str], ...] = variables()(table)
    return checked


#: Names of the resource limits that a test may have, as in RLIMIT_NAME.
LIMIT_NAMES = ("as", "core", "cpu", "data", "fsize", "memlock", "nofile", "nproc", "stack")
_UNIT_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _limits(value: Any) -> tuple[tuple[str, int], ...]:
    """Accept ``as:2g+nofile:256``, or a table."""
    value = value.strip() if isinstance(value, str) else value
    table = _parse_table(value, r"[+\s]+", ":", "like as:2g+nofile:256")
    return tuple((name, _limit(name, item)) for name, item in table.items())


def _limit(name: str, value: Any) -> int:
    if name not in LIMIT_NAMES:
        hint = format_suggestion(name, LIMIT_NAMES)
        raise InvalidValue(f"a table of known limits; {format_key(name)} is not one{hint}")
    pattern = r"(\d{1,12})([kmgtKMGT]?)"
    match = re.fullmatch(pattern, value, re.ASCII) if isinstance(value, str) else None
    if match is None:
        message = f"a table of numbers, optionally with k, m, g or t; {name} is not one"
        raise InvalidValue(message)
    return int(match[1]) * _UNIT_FACTORS[match[2].lower()]


#: Maximum words of a command, and characters of each.
_MAX_WORDS, _MAX_WORD_CHARS = 100, 4096


def _words(value: Any) -> tuple[str, ...]:
    """Accept a list of texts, or a text that is split as by a shell."""
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise InvalidValue(f"words as in a shell ({error})") from None
    is_list = isinstance(words, list) and len(words) <= _MAX_WORDS
    if not is_list or not all(_is_word(word) for word in words):
        limits = f"at most {_MAX_WORDS} of at most {_MAX_WORD_CHARS} characters"
        raise InvalidValue(f"words as in a shell, or a list of texts, {limits}")
    if words and not words[0]:
        raise InvalidValue("words of which the first is not empty")
    return tuple(words)


def _is_word(word: Any) -> bool:
    return isinstance(word, str) and len(word) <= _MAX_WORD_CHARS and "\0" not in word


# -- keys ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Key:
    """One key of the metadata."""

    #: Field of Metadata that holds the value.
    field: str
    validator: Validator
    #: Values of several sources are added; otherwise the last one wins.
    adds: bool = False


#: Keys whose value is "yes" if none is given.
_KEYS_WITHOUT_VALUE = ("serial",)
#: Prefix of the names of locks that exist once per host.
HOST_LOCK_PREFIX = "host:"
#: Name of a lock or a label; ``+`` and comma are separators.
_NAME_PATTERN = r"\w[\w.-]*"
_WORD_PATTERN = r"[^\W\d][\w.*:-]*"

_KEYS: Mapping[str, _Key] = {
    "timeout": _Key("timeout", _seconds),
    "tags": _Key("tags", _word_list(_WORD_PATTERN, "a word", "words"), adds=True),
    "cwd": _Key("cwd", one_of("dir", "root")),
    "home": _Key("home", one_of("private", "keep")),
    "pass": _Key("pass_env", _word_list(_WORD_PATTERN, "a word", "words"), adds=True),
    "env": _Key("env", _variables, adds=True),
    "lock": _Key(
        "locks",
        _word_list(f"({HOST_LOCK_PREFIX})?{_NAME_PATTERN}", "the name of a lock", "names"),
        adds=True,
    ),
    "serial": _Key("serial", _flag),
    "requires": _Key("requires", _word_list(_NAME_PATTERN, "a label", "names"), adds=True),
    "retries": _Key("retries", _count(0, 100)),
    "repeat": _Key("repeat", _count(1, 10_000)),
    "leftovers": _Key("leftovers", one_of("warn", "fail", "ignore")),
    "limits": _Key("limits", _limits, adds=True),
    "isolation": _Key("isolation", one_of("shared", "copy")),
    "preset": _Key("preset", one_of("perl", "bats", "automake")),
    "run": _Key("run", _words),
    "args": _Key("args", _words),
}

#: Values by name of the preset: what the runner of a kind of test sets for it.
_PRESETS: Mapping[str, Mapping[str, Any]] = {
    # TAP::Harness, and prove -lb; "make test" sets PERL_DL_NONLAZY.
    "perl": {
        "cwd": "root",
        "env": {
            "HARNESS_ACTIVE": "1",
            "PERL5LIB": "{root}/lib:{root}/blib/lib:{root}/blib/arch",
            "PERL_DL_NONLAZY": "1",
            "TERM": "dumb",
        },
    },
    "bats": {"cwd": "root", "env": {"TERM": "dumb"}},
    # The parallel test harness of automake starts a test in the folder of its Makefile.
    "automake": {"cwd": "dir", "env": {"srcdir": ".", "TERM": "dumb"}},
}


def _error(file: str, line: int | str, key: str, message: str) -> InvalidMetadata:
    return InvalidMetadata(f"{file}:{line}: {format_key(key)}: {message}")


def apply_values(base: Metadata, values: Mapping[str, Any], file: str, line: int | str) -> Metadata:
    """Return ``base`` updated with ``values``.

    The values of a preset come before the others, which take precedence.  Raises
    InvalidMetadata, which names file, line and key.
    """
    if "preset" in values:
        name = check(
            _KEYS["preset"].validator, values["preset"], partial(_error, file, line, "preset")
        )
        base = apply_values(base, _PRESETS[name], file, line)
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
    """Return ``base`` updated with matching patterns of nosejobs.toml and with the comment.

    ``name``: path relative to the root.  ``head``: first bytes of the file.  Raises
    InvalidMetadata.
    """
    for pattern, values in tree.patterns:
        if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(_file_name(name), pattern):
            base = apply_values(base, values, str(tree.path), f"[tests.{pattern!r}]")
    return read_metadata(base, name, head)


def resolve_defaults(base: Metadata, tree: Config) -> Metadata:
    """Return ``base`` updated with ``[tests]`` of nosejobs.toml; raises InvalidMetadata."""
    check_tests_tables(tree)
    return apply_values(base, tree.defaults, str(tree.path), "[tests]")


def check_tests_tables(tree: Config) -> None:
    """Check ``[tests]`` and all of its patterns, also those that match no test.

    Raises InvalidMetadata, which names file, line, pattern and key.
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


def _file_name(name: str) -> str:
    return name.rpartition("/")[2]


def make_test(
    number: int,
    path: str,
    argv: tuple[str, ...],
    metadata: Metadata,
    timeout: float,
    output_format: str = "",
) -> Test:
    """Return the Test that a host runs.

    ``number``: its number in the session.  ``timeout``: seconds.  ``output_format``: the format
    that the program always writes, or empty.
    """
    return Test(
        id=number,
        path=path,
        timeout=timeout,
        argv=argv,
        cwd=metadata.cwd,
        home=metadata.home,
        env=metadata.env,
        pass_env=metadata.pass_env,
        output_format=output_format,
        leftovers=metadata.leftovers,
        limits=metadata.limits,
        isolation=metadata.isolation,
        locks=host_locks(metadata),
        serial=metadata.serial,
        run=metadata.run,
        args=metadata.args,
    )


def host_locks(metadata: Metadata) -> tuple[str, ...]:
    """Return the names of the ``host:`` locks, without the prefix."""
    names = (name for name in metadata.locks if name.startswith(HOST_LOCK_PREFIX))
    return tuple(sorted(name.removeprefix(HOST_LOCK_PREFIX) for name in names))


_COMMENT = re.compile(r"\s*(?:#|//|--|;|%|\"|/?\*)+\s*(.*)")
_METADATA = re.compile(r"nosejobs:\s*(.*)")
_MISSING_COLON = re.compile(r"nosejobs?\s*:?\s+[a-z-]+=")
_BATS_TAGS = re.compile(r"bats\s+(?:test|file)_tags=(.*)")
_BATS_TAG = re.compile(r"[-:\w]+")


def iterate_comments(head: bytes) -> Iterable[tuple[int, str]]:
    """Yield the lines of the leading comment, numbered from 1, without comment marks."""
    for number, line in enumerate(head.decode("utf-8", "replace").splitlines(), 1):
        match = _COMMENT.match(line)
        if match:
            yield number, match[1]
        elif line.strip():
            return


def read_metadata(base: Metadata, file: str, head: bytes) -> Metadata:
    """Return ``base`` updated with the keys of the leading comment; raises InvalidMetadata."""
    if b"nosejob" in head and not is_binary(head):
        for number, text in iterate_comments(head):
            match = _METADATA.match(text)
            if not match and _MISSING_COLON.match(text):
                raise _error(file, number, "nosejobs", "must be written as # nosejobs: key=value")
            if match:
                base = apply_values(base, _parse_pairs(file, number, match[1]), file, number)
    if b"bats " in head and file.endswith(".bats"):
        base = _apply_bats_tags(base, head)
    return base


def _apply_bats_tags(base: Metadata, head: bytes) -> Metadata:
    for line in head.decode("utf-8", "replace").splitlines():
        comment = _COMMENT.match(line)
        match = _BATS_TAGS.match(comment[1]) if comment else None
        if match:
            # An empty list is legal and resets the tags. Bats itself reports an invalid tag.
            tags = [part.strip() for part in match[1].split(",")]
            known = dict.fromkeys([*base.tags, *filter(_BATS_TAG.fullmatch, tags)])
            base = replace(base, tags=tuple(known))
    return base


def _parse_pairs(file: str, line: int, text: str) -> dict[str, str]:
    try:
        words = shlex.split(text.removesuffix("*/"), comments=True)
    except ValueError as error:
        raise _error(file, line, "nosejobs", str(error)) from None
    pairs: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            if key in _KEYS and key not in _KEYS_WITHOUT_VALUE:
                message = f"needs a value: {key}=..., with no spaces around ="
                raise _error(file, line, key, message)
            value = "yes"
        if key in pairs:
            raise _error(file, line, key, "is given twice")
        pairs[key] = value
    return pairs
