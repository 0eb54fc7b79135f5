"""What a person says of a job, checked before anything is sent: a file, and options beside it.

Owns the keys of a job's file.  Reads one file; knows no hosts.  Every error names the file (or
the option) and the key.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import check_keys, size
from .errors import BadConfig
from .remote.job import KEEP, BadJob, JobConfig, config_from

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PASSED = re.compile(r"[A-Za-z_*][A-Za-z0-9_*]*")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|m|h|d)?")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
#: Seconds that nothing of a job takes: a year.
_LONGEST = 366 * 86_400.0
#: Characters of a name or a label, labels of a job, and how far priorities go: as a host has it.
_LONG_NAME, _LABELS, _PRIORITY = 200, 50, 1_000_000
#: Slots, retries, attempts.
_MANY = {"slots": 1024, "retries": 100, "attempts": 100}


@dataclass(frozen=True)
class Description:
    """A job as it is wanted, before its tests are known."""

    #: A folder or an archive.
    tests: Path
    build: Path | None = None
    #: Names of tests or patterns; empty: all.
    select: tuple[str, ...] = ()
    #: Seconds of a test that says nothing else; None: the usual ones.
    timeout: float | None = None
    config: JobConfig = JobConfig()
    name: str = ""
    labels: tuple[str, ...] = ()
    priority: int = 0
    #: Of the folder of the tests: what is sent beside the usual, and what is not.
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


# -- kinds of values: each takes what it was given, and says what it should have been --------


class _Wrong(ValueError):
    """A value is not what its key wants; the text says what that is."""

    def __init__(self, words: str, inside: str = "", value: Any = None) -> None:
        """``inside``: the part of the key, of that ``value``, that is at fault."""
        super().__init__(words)
        self.inside, self.value = inside, value


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _Wrong("a text")
    return value


def _path(value: Any) -> str:
    if not _text(value):
        raise _Wrong("the path of a folder or an archive")
    return str(value)


def _title(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONG_NAME or not value.isprintable():
        raise _Wrong(f"a text of one line, at most {_LONG_NAME} characters")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not (isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)):
        raise _Wrong("a list of texts")
    return tuple(value)


def _labels(value: Any) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(_texts(value)))
    if len(found) > _LABELS or not all(each and _title(each) for each in found):
        raise _Wrong(f"a list of at most {_LABELS} texts")
    return found


def _pass_env(value: Any) -> tuple[str, ...]:
    found = _texts(value)
    if not all(_PASSED.fullmatch(each) for each in found):
        raise _Wrong("a list of names of variables (* allowed)")
    return found


def _seconds(value: Any) -> float:
    """``90``, ``"90s"``, ``"10m"``, ``"2h"``."""
    words = 'a time as 90, "90s", "10m" or "2h"'
    if isinstance(value, str):
        found = _SECONDS.fullmatch(value)
        if found is None:
            raise _Wrong(words)
        value = float(found[1]) * _UNITS[found[2] or "s"]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Wrong(words)
    if not 0 <= value <= _LONGEST:
        raise _Wrong("a time of at most a year")
    return float(value)


def _some_seconds(value: Any) -> float:
    if not _seconds(value):
        raise _Wrong("a time above 0")
    return _seconds(value)


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise _Wrong(f"a whole number, {least} to {most}")
        return value

    return check


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("true or false")
    return value


def _bytes(value: Any) -> int:
    try:
        return size("", value)
    except BadConfig:
        raise _Wrong('a size as "64MiB", "500 kB" or a number of bytes') from None


def _keep(value: Any) -> str:
    if value not in KEEP:
        raise _Wrong(f"one of {', '.join(KEEP)}")
    return str(value)


def _environment(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise _Wrong("a table of texts")
    for name, text in value.items():
        if not _NAME.fullmatch(name):
            raise _Wrong(f"a table of texts by name; {name!r} cannot be the name of a variable")
        if not isinstance(text, str) or "\0" in text:
            raise _Wrong("a text", name, text)
    return tuple(value.items())


def _address(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^\s/]+\S*", value):
        raise _Wrong("an http:// or https:// address")
    return value


def _variable(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _Wrong("the name of a variable")
    return value


#: The keys of a job's file, and what each takes.
KEYS: Mapping[str, Callable[[Any], Any]] = {
    "tests": _path,
    "select": _texts,
    "build": _path,
    "include": _texts,
    "exclude": _texts,
    "name": _title,
    "labels": _labels,
    "priority": _whole(-_PRIORITY, _PRIORITY),
    "install": _text,
    "install_timeout": _some_seconds,
    "environment": _environment,
    "pass_env": _pass_env,
    "slots": _whole(0, _MANY["slots"]),
    "timeout": _some_seconds,
    "job_timeout": _seconds,
    "retries": _whole(0, _MANY["retries"]),
    "attempts": _whole(1, _MANY["attempts"]),
    "keep_workspace": _keep,
    "grace": _seconds,
    "keep_output": _bytes,
    "artefacts": _bytes,
    "merge": _flag,
    "notify": _address,
    "notify_secret_env": _variable,
}
#: Those that the host has under another name, or not at all.
_CLIENTS = (
    "tests", "select", "build", "include", "exclude", "name", "labels", "priority", "timeout",
    "job_timeout", "notify_secret_env",
)  # fmt: skip
#: Keys that hold paths, relative to the folder of the file.
_PATHS = ("tests", "build")


def read(path: Path) -> dict[str, Any]:
    """The checked values of a job's file; BadConfig names file and key."""
    values = _load(path)
    check_keys(str(path), "", values, KEYS)
    found = {key: _checked(f"{path}: {key}", key, value) for key, value in values.items()}
    for key in _PATHS:
        if key in found:
            found[key] = str(path.parent / found[key])
    return found


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadConfig(f"{path}: {why}") from error
    if not isinstance(found, dict):
        raise BadConfig(f"{path}: a job is a table (an object), not {type(found).__name__}")
    return found


def _checked(where: str, key: str, value: Any) -> Any:
    try:
        return KEYS[key](value)
    except _Wrong as error:
        if key == "environment" and not error.inside and isinstance(value, Mapping):
            raise BadConfig(f"{where} must be {error}") from None  # values may be secret
        if error.inside:
            where, value = f"{where}.{error.inside}", error.value
        raise BadConfig(f"{where} must be {error}, not {value!r:.200}") from None


def describe(
    path: Path | None, options: Mapping[str, Any], environ: Mapping[str, str]
) -> Description:
    """The job of a file (or none) and of options, which win; environments are put together.

    ``options`` go by the keys of the file, without those that were not given.
    """
    values = read(path) if path else {}
    for key, value in options.items():
        found = _checked(_option(key), key, value)
        if key == "environment":
            found = tuple({**dict(values.get(key, ())), **dict(found)}.items())
        elif key in ("labels", "pass_env"):
            found = tuple(dict.fromkeys((*values.get(key, ()), *found)))
        values[key] = found
    return _description(values, environ, path)


def _description(
    values: Mapping[str, Any], environ: Mapping[str, str], path: Path | None
) -> Description:
    if "tests" not in values:
        where = f"{path}: tests is missing" if path else "--tests is missing"
        raise BadConfig(f"{where}: the folder or archive with the tests")
    for key in _PATHS:
        if key in values and not Path(values[key]).exists():
            raise BadConfig(f"{_place(path, key)}: {values[key]} does not exist")
    config: dict[str, Any] = {key: each for key, each in values.items() if key not in _CLIENTS}
    config["timeout"] = values.get("job_timeout", 0.0)
    config["secret"] = _secret(values, environ, path)
    try:
        checked = config_from(config)
    except BadJob as error:
        raise BadConfig(f"{path or 'the options'}: {error}") from error
    return Description(
        tests=Path(values["tests"]),
        build=Path(values["build"]) if "build" in values else None,
        config=checked,
        **{key: values[key] for key in _SAME if key in values},
    )


#: Fields of a Description that are keys as they are.
_SAME = ("select", "timeout", "name", "labels", "priority", "include", "exclude")
#: Where the secret is unless the file names another variable.
SECRET = "NOSEJOBS_NOTIFY_SECRET"


def _secret(values: Mapping[str, Any], environ: Mapping[str, str], path: Path | None) -> str:
    """It stands in no file and on no command line."""
    name = values.get("notify_secret_env")
    if name and not environ.get(name):
        raise BadConfig(f"{_place(path, 'notify_secret_env')}: the variable {name} is not set")
    return environ.get(name or SECRET, "") if values.get("notify") else ""


def _place(path: Path | None, key: str) -> str:
    return f"{path}: {key}" if path else _option(key)


#: Options that are not called as their keys.
_OPTIONS = {"environment": "--env", "labels": "--label", "select": "SELECT"}


def _option(key: str) -> str:
    """As it was typed."""
    return _OPTIONS.get(key, f"--{key.replace('_', '-')}")
