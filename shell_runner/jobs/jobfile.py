"""What a person says of a job, checked before anything is sent: a file, and options beside it.

Owns the keys of a job's file.  Reads one file; knows no hosts.  Every error names the file (or
the option) and the key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import toml_document
from ..config import MAX_SLOTS
from ..errors import BadConfig
from ..remote.protocol.job import (
    KEEP,
    MAX_ATTEMPTS,
    MAX_LABELS,
    MAX_NAME_CHARS,
    MAX_PRIORITY,
    BadJob,
    JobConfig,
    config_from,
)
from ..toml_document import Document
from ..validators import (
    Validator,
    check,
    duration,
    flag,
    line,
    list_of,
    matching,
    one_of,
    size,
    text,
    variable,
    variables,
    whole,
)

#: Names or patterns of one list.
_MAX_TEXTS = 1_000_000


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


_PATH = text("the path of a folder or an archive", empty=False)
_TEXTS = list_of(text(), "texts", maximum=_MAX_TEXTS)
_PASSED = matching(r"[A-Za-z_*][A-Za-z0-9_*]*", "the name of a variable (* allowed)")

#: The keys of a job's file.
KEYS: Mapping[str, Validator] = {
    "tests": _PATH,
    "select": _TEXTS,
    "build": _PATH,
    "include": _TEXTS,
    "exclude": _TEXTS,
    "name": line(MAX_NAME_CHARS, 0),
    "labels": list_of(line(MAX_NAME_CHARS), "texts", maximum=MAX_LABELS),
    "priority": whole(-MAX_PRIORITY, MAX_PRIORITY),
    "install": text("a command"),
    "install_timeout": duration(),
    "environment": variables(),
    "pass_env": list_of(_PASSED, "names of variables (* allowed)"),
    "slots": whole(0, MAX_SLOTS),
    "timeout": duration(),
    "job_timeout": duration(zero=True),
    "retries": whole(0, 100),
    "attempts": whole(1, MAX_ATTEMPTS),
    "keep_workspace": one_of(*KEEP),
    "grace": duration(zero=True),
    "keep_output": size,
    "artefacts": size,
    "merge": flag,
    "notify": matching(r"https?://[^\s/]+\S*", "an http:// or https:// address"),
    "notify_secret_env": variable,
}
#: Those that the host has under another name, or not at all.
_CLIENTS = (
    "tests", "select", "build", "include", "exclude", "name", "labels", "priority", "timeout",
    "job_timeout", "notify_secret_env",
)  # fmt: skip
#: Keys that hold paths, relative to the folder of the file.
_PATHS = ("tests", "build")


def read(path: Path) -> dict[str, Any]:
    """Return the checked values of a job's file; BadConfig names file, line (of TOML) and key."""
    values = _document(path).check_table((), KEYS)
    for key in _PATHS:
        if key in values:
            values[key] = str(path.parent / values[key])
    return values


def _document(path: Path) -> Document:
    try:
        data = path.read_bytes()
        if path.suffix != ".json":
            return toml_document.read(str(path), data, toml_document.LARGEST_OWN)
        values = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadConfig(f"{path}: {reason}") from error
    if not isinstance(values, dict):
        raise BadConfig(f"{path}: a job is a table (an object), not {type(values).__name__}")
    return Document(str(path), values, {})


def describe(
    path: Path | None, options: Mapping[str, Any], environ: Mapping[str, str]
) -> Description:
    """The job of a file (or none) and of options, which win; environments are put together.

    ``options`` go by the keys of the file, without those that were not given.
    """
    values = read(path) if path else {}
    for key, value in options.items():
        found = check(KEYS[key], value, partial(_option_error, key))
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


def _option_error(key: str, message: str) -> BadConfig:
    return BadConfig(f"{_option(key)} {message}")
