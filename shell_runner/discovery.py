"""Which files are tests, how they are run, and what they say of themselves.

Pure: names, modes and first bytes come as arguments.  The rules are those of the
page "collection" of the manual.
"""

from __future__ import annotations

import enum
import fnmatch
import functools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .config import Config, suggestion
from .errors import BadMetadata
from .remote.model import Test
from .remote.program import is_binary

#: File name patterns of tests, unless the user gives others.
PATTERNS = ("test_*", "*_test", "*.t", "*.bats")

#: Suffixes of programs that are text.
SCRIPT_SUFFIXES = frozenset(
    [
        ".sh", ".bash", ".zsh", ".ksh", ".mksh", ".dash", ".ash", ".fish", ".csh", ".tcsh",
        ".pl", ".raku", ".rb", ".lua", ".tcl", ".exp", ".awk", ".sed", ".php", ".ps1", ".nu",
        ".js", ".mjs", ".cjs", ".ts", ".r", ".R", ".jl", ".scm", ".lisp", ".groovy", ".kts",
        ".t", ".bats",
    ]
)  # fmt: skip
#: Suffixes of tests whose exec bit does not matter, and what runs one without a shebang.
_RUN_ANYWAY: Mapping[str, tuple[str, ...]] = {".t": ("perl",), ".bats": ("bats", "--tap")}

#: How the name of a lock begins that each host has for itself.
HOST_LOCK = "host:"
#: Bytes of a file that are looked at.
HEAD = 4096
_NEVER = re.compile(r"helper|fixture", re.IGNORECASE)
_PYTHON = frozenset([".py", ".pyc", ".pyi", ".pyx", ".pyw"])


class Kind(enum.Enum):
    """What a file is to us."""

    TEST = enum.auto()
    #: Looks like a test and cannot be run: an error that the user sees.
    BROKEN = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True)
class Found:
    """What became of one file."""

    kind: Kind
    #: What is put in front of the path to run it.
    argv: tuple[str, ...] = ()
    #: For BROKEN: why.
    why: str = ""


OTHER = Found(Kind.OTHER)


@dataclass(frozen=True)
class File:
    """A regular file as the rules see it."""

    name: str
    executable: bool
    head: bytes

    @property
    def suffix(self) -> str:
        """``.sh`` of ``test_a.sh``; empty without one."""
        return _suffix(self.name)


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return dot + suffix if dot and stem else ""


def could_be_test(name: str, patterns: Sequence[str] = PATTERNS) -> bool:
    """By its name alone; cheap, for the many files that are none."""
    suffix = _suffix(name)
    if suffix in _PYTHON:
        return False
    whole, stems = _compiled(tuple(patterns))
    if not (whole.match(name) or _is_script(name, suffix, stems)):
        return False
    return not _NEVER.search(name)


def _is_script(name: str, suffix: str, stems: re.Pattern[str]) -> bool:
    if suffix and suffix not in SCRIPT_SUFFIXES:
        return False
    return bool(stems.match(name.removesuffix(suffix) if suffix else name))


@functools.cache
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of whole names, and those of names without a script's suffix."""
    found = [
        [fnmatch.translate(each) for each in patterns if ("." in each) == whole]
        for whole in (True, False)
    ]
    whole, stems = (re.compile("|".join(each) or r"(?!)") for each in found)
    return whole, stems


def classify(file: File, named: bool = False) -> Found:
    """What ``file`` is, its name being that of a test, or the user having named it."""
    if file.suffix in _RUN_ANYWAY and file.name != file.suffix:
        return _run_anyway(file)
    if file.executable:
        return Found(Kind.TEST)
    if named:
        return Found(Kind.BROKEN, why=_why_not(file))
    if file.head.startswith(b"#!") and (not file.suffix or file.suffix in SCRIPT_SUFFIXES):
        return Found(Kind.BROKEN, why=_why_not(file))
    return OTHER


def _run_anyway(file: File) -> Found:
    """``.bats`` always by bats; ``.t`` by itself, by its shebang, or by perl, as prove(1) does."""
    if file.suffix == ".bats":
        return Found(Kind.TEST, _RUN_ANYWAY[".bats"])
    if file.executable and (file.head.startswith(b"#!") or is_binary(file.head)):
        return Found(Kind.TEST)
    line = file.head.split(b"\n", 1)[0]
    if line.startswith(b"#!"):
        return Found(Kind.TEST, tuple(line[2:].decode("utf-8", "replace").split()))
    return Found(Kind.TEST, _RUN_ANYWAY[".t"])


def _why_not(file: File) -> str:
    if file.head.startswith(b"#!") or is_binary(file.head):
        return f"not executable: chmod +x {shlex.quote(file.name)}"
    return (
        "it cannot be run: neither executable nor with a shebang "
        f"(put #!/bin/sh on its first line and chmod +x {shlex.quote(file.name)})"
    )


# -- metadata ---------------------------------------------------------------------


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


@dataclass(frozen=True)
class _Where:
    """For errors: the file and line that said it."""

    file: str
    line: int | str

    def error(self, key: str, words: str) -> BadMetadata:
        return BadMetadata(f"{self.file}:{self.line}: {key}: {words}")


def _seconds(where: _Where, key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    if isinstance(value, bool) or not 0 < number < 1e9:
        raise where.error(key, f"must be a number of seconds above 0, not {value!r}")
    return number


def _words(where: _Where, key: str, value: Any) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise where.error(key, f"must be a list of words, not {value!r}")
    for word in words:
        if not re.fullmatch(r"[^\W\d][\w.*:-]*", word.strip()):
            raise where.error(key, f"{word!r} is not a word")
    return tuple(word.strip() for word in words)


def _one_of(*choices: str) -> Any:
    def convert(where: _Where, key: str, value: Any) -> str:
        if value not in choices:
            raise where.error(key, f"must be {' or '.join(choices)}, not {value!r}")
        return str(value)

    return convert


def _variables(where: _Where, key: str, value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, str):
        pairs = [part.partition("=")[::2] for part in value.split(",")]
    elif isinstance(value, dict):
        pairs = [(str(name), str(text)) for name, text in value.items()]
    else:
        raise where.error(key, f"must be a table of variables, not {value!r}")
    for name, _ in pairs:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise where.error(key, f"{name!r} is not the name of a variable")
    for name, text in pairs:
        if "\0" in text:
            raise where.error(key, f"the value of {name} holds a NUL, which no variable can")
    return tuple(pairs)


#: A name of a lock or a label: no ``+`` and no comma, which separate them.
_NAME = r"\w[\w.-]*"


def _names(pattern: str, what: str) -> Any:
    def convert(where: _Where, key: str, value: Any) -> tuple[str, ...]:
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise where.error(key, f"must be a list of names, not {value!r}")
        for name in names:
            if not re.fullmatch(pattern, name.strip()):
                raise where.error(key, f"{name!r} is not {what}")
        return tuple(dict.fromkeys(name.strip() for name in names))

    return convert


def _flag(where: _Where, key: str, value: Any) -> bool:
    known = {"yes": True, "true": True, "no": False, "false": False}
    found = value if isinstance(value, bool) else known.get(str(value).lower())
    if found is None:
        raise where.error(key, f"must be yes or no, not {value!r}")
    return found


def _count(least: int, most: int) -> Any:
    def convert(where: _Where, key: str, value: Any) -> int:
        text = str(value)
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise where.error(key, f"must be a whole number, {least} to {most}, not {value!r}")
        return int(text)

    return convert


#: Resource limits that a test may be given; the seconds and counts have no unit.
LIMITS = ("as", "core", "cpu", "data", "fsize", "memlock", "nofile", "nproc", "stack")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _limits(where: _Where, key: str, value: Any) -> tuple[tuple[str, int], ...]:
    """``as:2g+nofile:256``, or a table."""
    if isinstance(value, str):
        pairs = [part.partition(":")[::2] for part in re.split(r"[+\s]+", value.strip())]
    elif isinstance(value, dict):
        pairs = [(str(name), str(text)) for name, text in value.items()]
    else:
        raise where.error(key, f"must be like as:2g+nofile:256, not {value!r}")
    return tuple((name, _limit(where, key, name, text)) for name, text in pairs)


def _limit(where: _Where, key: str, name: str, text: str) -> int:
    if name not in LIMITS:
        raise where.error(key, f"unknown limit {name!r}{suggestion(name, LIMITS)}")
    found = re.fullmatch(r"(\d{1,12})([kmgt]?)", text.lower(), re.ASCII)
    if not found:
        raise where.error(key, f"{name} must be a number, perhaps with k, m, g or t: {text!r}")
    return int(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True)
class _Key:
    """One key of metadata: the field it sets, and how it is read."""

    field: str
    convert: Any
    #: Values of several sources add up, instead of the last one winning.
    adds: bool = False


#: Keys that mean "yes" without a value.
_FLAGS = ("serial",)

_KEYS: Mapping[str, _Key] = {
    "timeout": _Key("timeout", _seconds),
    "tags": _Key("tags", _words, adds=True),
    "cwd": _Key("cwd", _one_of("dir", "root")),
    "home": _Key("home", _one_of("private", "keep")),
    "pass": _Key("pass_env", _words, adds=True),
    "env": _Key("env", _variables, adds=True),
    "lock": _Key("locks", _names(rf"(host:)?{_NAME}", "the name of a lock"), adds=True),
    "serial": _Key("serial", _flag),
    "requires": _Key("requires", _names(_NAME, "a label"), adds=True),
    "retries": _Key("retries", _count(0, 100)),
    "repeat": _Key("repeat", _count(1, 10_000)),
    "leftovers": _Key("leftovers", _one_of("warn", "fail", "ignore")),
    "limits": _Key("limits", _limits, adds=True),
    "isolation": _Key("isolation", _one_of("shared", "copy")),
}


def apply(base: Metadata, values: Mapping[str, Any], file: str, line: int | str) -> Metadata:
    """``base`` with ``values`` on top; BadMetadata names file, line and key."""
    where = _Where(file, line)
    changes: dict[str, Any] = {}
    for name, value in values.items():
        key = _KEYS.get(name)
        if key is None:
            raise where.error(name, f"unknown key{suggestion(name, _KEYS)}")
        found = key.convert(where, name, value)
        if key.adds:
            old = changes.get(key.field, getattr(base, key.field))
            found = (*old, *(each for each in found if each not in old))
        changes[key.field] = found
    return replace(base, **changes) if changes else base


def metadata_of(base: Metadata, tree: Config, name: str, head: bytes) -> Metadata:
    """``base``, patterns of nosejobs.toml, the file's own comment; raises BadMetadata."""
    for pattern, values in tree.patterns:
        if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(_base(name), pattern):
            base = apply(base, values, str(tree.path), f"[tests.{pattern!r}]")
    return read_metadata(base, name, head)


def defaults_of(base: Metadata, tree: Config) -> Metadata:
    """``base`` with what nosejobs.toml says of all tests on top; raises BadMetadata."""
    for pattern, said in tree.patterns:  # one that matches no test is still checked
        apply(base, said, str(tree.path), f"[tests.{pattern!r}]")
    return apply(base, tree.defaults, str(tree.path), "[tests]")


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def as_test(
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
        format=spoken,
        leftovers=said.leftovers,
        limits=said.limits,
        isolation=said.isolation,
        locks=locks_of_host(said),
        serial=said.serial,
    )


#: How the name of a lock begins that holds on one host only.
HOST_LOCK = "host:"


def locks_of_host(metadata: Metadata) -> tuple[str, ...]:
    """The names of its ``host:`` locks, as the host knows them."""
    found = (name for name in metadata.locks if name.startswith(HOST_LOCK))
    return tuple(sorted(name.removeprefix(HOST_LOCK) for name in found))


_COMMENT = re.compile(r"\s*(?:#|//|--|;|%|\"|/?\*)+\s*(.*)")
_OURS = re.compile(r"nosejobs:\s*(.*)")
_FORGOTTEN = re.compile(r"nosejobs?\s*:?\s+[a-z-]+=")
_BATS = re.compile(r"bats\s+(?:test|file)_tags=(.*)")


def comments(head: bytes) -> Iterable[tuple[int, str]]:
    """The lines of the leading comment, numbered from 1, without their marks."""
    for number, line in enumerate(head.decode("utf-8", "replace").splitlines(), 1):
        found = _COMMENT.match(line)
        if found:
            yield number, found[1]
        elif line.strip():
            return


def read_metadata(base: Metadata, file: str, head: bytes) -> Metadata:
    """``base`` with what the leading comment says on top; raises BadMetadata."""
    if b"nosejob" in head and not is_binary(head):
        for number, text in comments(head):
            found = _OURS.match(text)
            if not found and _FORGOTTEN.match(text):
                raise _Where(file, number).error("nosejobs", "is written # nosejobs: key=value")
            if found:
                base = apply(base, _pairs(_Where(file, number), found[1]), file, number)
    if b"bats " in head and file.endswith(".bats"):
        base = _bats_tags(base, file, head)
    return base


def _bats_tags(base: Metadata, file: str, head: bytes) -> Metadata:
    for number, line in enumerate(head.decode("utf-8", "replace").splitlines(), 1):
        comment = _COMMENT.match(line)
        found = _BATS.match(comment[1]) if comment else None
        if found:
            tags = ",".join(part.strip() for part in found[1].split(",") if part.strip())
            base = apply(base, {"tags": tags}, file, number)
    return base


def _pairs(where: _Where, text: str) -> dict[str, str]:
    try:
        words = shlex.split(text.removesuffix("*/"), comments=True)
    except ValueError as error:
        raise where.error("nosejobs", str(error)) from None
    pairs: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            if key in _KEYS and key not in _FLAGS:
                raise where.error(key, f"needs a value: {key}=..., with no spaces around =")
            value = "yes"
        if key in pairs:
            raise where.error(key, "is given twice")
        pairs[key] = value
    return pairs
