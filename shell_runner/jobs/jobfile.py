"""The description of a job: a job file, and command-line options that override it.

Responsible for the keys of a job file and their validation before anything is sent.  Must not know
hosts.  Every error names the file or the option, and the key.
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
from ..errors import InvalidConfig
from ..remote.protocol.job import (
    KEEP_WORKSPACE_VALUES,
    MAX_ATTEMPTS,
    MAX_LABELS,
    MAX_NAME_CHARS,
    MAX_PRIORITY,
    BadJob,
    JobConfig,
    parse_config,
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

#: Maximum number of strings in one list.
_MAX_LIST_ITEMS = 1_000_000


@dataclass(frozen=True)
class JobDescription:
    """A job as it was requested, before its tests are known."""

    #: The folder or archive of the tests.
    tests: Path
    build: Path | None = None
    #: Names of tests, folders or patterns; empty: all tests.
    select: tuple[str, ...] = ()
    #: Time limit in seconds of a test without one of its own; None: the default.
    timeout: float | None = None
    config: JobConfig = JobConfig()
    name: str = ""
    labels: tuple[str, ...] = ()
    priority: int = 0
    #: Patterns of files below ``tests`` that are also sent, and that are not.
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


_PATH = text("the path of a folder or an archive", empty=False)
_TEXTS = list_of(text(), "texts", maximum=_MAX_LIST_ITEMS)
_PASSED_VARIABLE = matching(r"[A-Za-z_*][A-Za-z0-9_*]*", "the name of a variable (* allowed)")

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
    "pass_env": list_of(_PASSED_VARIABLE, "names of variables (* allowed)"),
    "slots": whole(0, MAX_SLOTS),
    "timeout": duration(),
    "job_timeout": duration(zero=True),
    "retries": whole(0, 100),
    "attempts": whole(1, MAX_ATTEMPTS),
    "keep_workspace": one_of(*KEEP_WORKSPACE_VALUES),
    "grace": duration(zero=True),
    "keep_output": size,
    "artifacts": size,
    "merge": flag,
    "notify": matching(r"https?://[^\s/]+\S*", "an http:// or https:// address"),
    "notify_secret_env": variable,
}
#: Keys that the configuration on the host does not have, or has under another name.
_CLIENT_KEYS = (
    "tests", "select", "build", "include", "exclude", "name", "labels", "priority", "timeout",
    "job_timeout", "notify_secret_env",
)  # fmt: skip
#: Keys that hold paths, relative to the folder of the job file.
_PATH_KEYS = ("tests", "build")


def read_jobfile(path: Path) -> dict[str, Any]:
    """Return the checked values of a job file (TOML, or JSON if its suffix is ``.json``).

    Raises :exc:`InvalidConfig`, which names the file, the key and, of TOML, the line.
    """
    values = _read_document(path).check_table((), KEYS)
    for key in _PATH_KEYS:
        if key in values:
            values[key] = str(path.parent / values[key])
    return values


def _read_document(path: Path) -> Document:
    try:
        data = path.read_bytes()
        if path.suffix != ".json":
            return toml_document.parse_document(str(path), data, toml_document.MAX_OWN_FILE_CHARS)
        values = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidConfig(f"{path}: {reason}") from error
    if not isinstance(values, dict):
        raise InvalidConfig(
            f"{path}: a job file must be a table (an object), not {type(values).__name__}"
        )
    return Document(str(path), values, {})


def describe_job(
    path: Path | None, options: Mapping[str, Any], environ: Mapping[str, str]
) -> JobDescription:
    """Return the job that a file (optional) and ``options`` describe.

    ``options`` have the keys of the file; one that was not given is absent.  They override the
    file, except that environments, labels and passed variables are merged.  ``environ`` holds the
    secret of the notification.
    """
    values = read_jobfile(path) if path else {}
    for key, value in options.items():
        checked = check(KEYS[key], value, partial(_make_option_error, key))
        if key == "environment":
            checked = tuple({**dict(values.get(key, ())), **dict(checked)}.items())
        elif key in ("labels", "pass_env"):
            checked = tuple(dict.fromkeys((*values.get(key, ()), *checked)))
        values[key] = checked
    return _make_description(values, environ, path)


def _make_description(
    values: Mapping[str, Any], environ: Mapping[str, str], path: Path | None
) -> JobDescription:
    if "tests" not in values:
        problem = f"{path}: tests is missing" if path else "--tests is missing"
        raise InvalidConfig(f"{problem}; it names the folder or archive of the tests")
    for key in _PATH_KEYS:
        if key in values and not Path(values[key]).exists():
            raise InvalidConfig(f"{_format_location(path, key)}: {values[key]} does not exist")
    config: dict[str, Any] = {
        key: value for key, value in values.items() if key not in _CLIENT_KEYS
    }
    config["timeout"] = values.get("job_timeout", 0.0)
    config["secret"] = _read_secret(values, environ, path)
    try:
        checked = parse_config(config)
    except BadJob as error:
        raise InvalidConfig(f"{path or 'the options'}: {error}") from error
    return JobDescription(
        tests=Path(values["tests"]),
        build=Path(values["build"]) if "build" in values else None,
        config=checked,
        **{key: values[key] for key in _DIRECT_KEYS if key in values},
    )


#: Fields of JobDescription that are keys of the file, unchanged.
_DIRECT_KEYS = ("select", "timeout", "name", "labels", "priority", "include", "exclude")
#: The environment variable that holds the secret unless the file names another one.
SECRET_VARIABLE = "NOSEJOBS_NOTIFY_SECRET"


def _read_secret(values: Mapping[str, Any], environ: Mapping[str, str], path: Path | None) -> str:
    """Return the secret of the notification, which is in no file and on no command line."""
    name = values.get("notify_secret_env")
    if name and not environ.get(name):
        raise InvalidConfig(
            f"{_format_location(path, 'notify_secret_env')}: the variable {name} is not set"
        )
    return environ.get(name or SECRET_VARIABLE, "") if values.get("notify") else ""


def _format_location(path: Path | None, key: str) -> str:
    return f"{path}: {key}" if path else _format_option(key)


#: Options whose name differs from the key.
_OPTION_NAMES = {"environment": "--env", "labels": "--label", "select": "SELECT"}


def _format_option(key: str) -> str:
    """Return an option as it is typed."""
    return _OPTION_NAMES.get(key, f"--{key.replace('_', '-')}")


def _make_option_error(key: str, message: str) -> InvalidConfig:
    return InvalidConfig(f"{_format_option(key)} {message}")
