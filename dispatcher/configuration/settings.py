"""The dispatcher's own file, dispatcher.toml: its data, sources, hosts and pools.

Owns the keys of the file, their checks and defaults.  The operator writes it: it is trusted, and
mistakes are explained.  Pure: it turns a text into frozen values, and opens nothing.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shell_runner import validators
from shell_runner.config import HOST_VALIDATORS, HostEntry, parse_host_entry
from shell_runner.errors import InvalidConfig, InvalidHostSpec
from shell_runner.hosts import spec as specs
from shell_runner.pools.provider import PoolOptions
from shell_runner.text import format_count
from shell_runner.toml_document import Document, parse_document
from shell_runner.validators import InvalidSecret, InvalidValue, Validator

from .git_address import ALLOWED_TRANSPORTS, HELPER_PREFIX, find_address_error

FILE_NAME = "dispatcher.toml"
DEFAULT_PORT = 7433
#: Name of the file, in the data folder, with the URL of the running dispatcher.
ADDRESS_FILE = "url"
#: Beginning of the names of files and folders, in the data folder, that are not complete yet.
TEMPORARY_PREFIX = ".part-"
_TABLES = ("dispatcher", "sources", "hosts", "pools", "retention")


#: Tokens that servers accept instead of a user name: those of GitHub and GitLab, and long texts
#: that are no name of a person.
_TOKEN_AS_USER_NAME = re.compile(
    r"(?:gh[a-z]_|github_pat_|gl[a-z]{1,5}-).*|(?=.*[0-9])[A-Za-z0-9_=-]{32,}"
)
_SECRET_IN_QUERY = re.compile(
    r"(?:^|[&;])[^=&;]*(?:token|password|secret|key)[^=&;]*=", re.IGNORECASE
)


@dataclass(frozen=True)
class Source:
    """``[sources.NAME]``: a git repository, or a directory."""

    name: str
    #: Address of a repository, in any form that git accepts; empty for a directory.
    git: str = ""
    directory: str = ""
    #: Patterns of the branches that are built.
    branches: tuple[str, ...] = ("main", "master")
    #: Patterns of paths; only changes to matching paths are built.  Empty: all.
    paths: tuple[str, ...] = ()
    #: ``newest``: a newer change of a branch supersedes those whose build has not begun; ``every``:
    #: each change is built.
    bursts: str = "newest"
    #: Seconds between two polls.
    poll: float = 30.0

    @property
    def kind(self) -> str:
        """``git`` or ``directory``."""
        return "git" if self.git else "directory"


@dataclass(frozen=True)
class Pool:
    """``[pools.NAME]``: a pool that brings up further hosts."""

    name: str
    kind: str = "local"
    #: Labels of its hosts.
    labels: tuple[str, ...] = ()
    #: Maximum number of hosts that exist at the same time.
    max_hosts: int = 1
    #: Seconds without a job after which a host is taken down.
    idle_timeout: float = 300.0
    #: Number of jobs after which a host is taken down; 0: any number.
    max_jobs: int = 0
    #: Options of its kind.
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def provider_options(self) -> PoolOptions:
        """The part of this table that the provider of the hosts needs."""
        return PoolOptions(self.name, self.max_hosts, self.options)


@dataclass(frozen=True)
class Retention:
    """``[retention]``: how long files of builds are kept.  Rows of builds are kept for ever."""

    #: Seconds that artifacts and packages of a build are kept.
    age: float = 90 * 86_400.0
    #: Number of the newest builds of a source that are kept, however old they are.
    builds: int = 20
    #: Builds with one of these levels are kept.
    levels: tuple[str, ...] = ("ship",)


@dataclass(frozen=True)
class Settings:
    """The contents of the file."""

    #: Folder of the database and of the blobs.
    data: Path
    address: str = "127.0.0.1"
    #: 0: any free port.
    port: int = DEFAULT_PORT
    #: Seconds between two polls of a source that has no interval of its own.
    poll: float = 30.0
    #: Seconds without an answer after which the jobs of a host are lost.
    lease: float = 120.0
    #: Infrastructure failures in a row that put a host into quarantine.
    quarantine: int = 3
    #: Maximum number of jobs on a host: one runs, the others are in its queue.
    queue: int = 2
    sources: tuple[Source, ...] = ()
    hosts: Mapping[str, HostEntry] = field(default_factory=dict)
    pools: tuple[Pool, ...] = ()
    retention: Retention = Retention()


def parse(text: str | bytes, folder: Path, name: str = FILE_NAME) -> Settings:
    """Return the checked settings of a text.

    ``folder``: folder to which relative paths refer.  ``name``: name of the file in errors.
    Raises InvalidConfig, which names file, line and key.
    """
    document = parse_document(name, text)
    document.check_keys((), _TABLES)
    own = document.check_table(("dispatcher",), _DISPATCHER_KEYS)
    address, port = own.pop("listen", (Settings.address, Settings.port))
    poll = own.get("poll", Settings.poll)
    return Settings(
        folder / own.pop("data", "nosejobs-data"),
        address,
        port,
        sources=tuple(
            _read_source(document, each, folder, poll) for each in document.table(["sources"])
        ),
        hosts={each: _read_host(document, each) for each in document.table(["hosts"])},
        pools=tuple(_read_pool(document, each) for each in document.table(["pools"])),
        retention=Retention(**document.check_table(("retention",), _RETENTION_KEYS)),
        **own,
    )


def _read_listen_address(value: Any) -> tuple[str, int]:
    """Return host and port of a loopback address; others need an API with authentication."""
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        examples = f'"127.0.0.1:{DEFAULT_PORT}" or "[::1]:{DEFAULT_PORT}"'
        raise InvalidValue(f"an address and a port, as {examples}")
    host = host.removeprefix("[").removesuffix("]")
    if host != "localhost" and not _is_loopback(host):
        raise InvalidValue(
            "a loopback address (127.0.0.1 or [::1]): the API has no authentication yet"
        )
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_read_line = validators.line()
_DISPATCHER_KEYS: Mapping[str, Validator] = {
    "data": _read_line,
    "listen": _read_listen_address,
    "poll": validators.duration(),
    "lease": validators.duration(),
    "quarantine": validators.whole(1, 1000),
    "queue": validators.whole(1, 1000),
}


# -- sources ---------------------------------------------------------------------------------


def _read_git_address(value: Any) -> str:
    """Return the address of a repository that contains no secret and runs no program."""
    text: str = _read_line(value)
    if HELPER_PREFIX.match(text):
        raise InvalidValue("an address without a helper program: 'name::' runs one")
    if find_address_error(text):
        transports = ", ".join(ALLOWED_TRANSPORTS)
        raise InvalidValue(f"the address of a repository, with one of {transports}")
    if "://" in text and _has_secret(text):
        message = "a password or a token, which everybody would see; use git's credential helpers"
        raise InvalidSecret(f"an address without {message}")
    return text


def _has_secret(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # If a password has a slash, the part before it is parsed as a port.
        raise InvalidSecret(
            "the address of a repository, with a number as its port, if any"
        ) from None
    by_name = parts.scheme.lower() in ("http", "https") and _TOKEN_AS_USER_NAME.fullmatch(
        parts.username or ""
    )
    return parts.password is not None or bool(by_name or _SECRET_IN_QUERY.search(parts.query))


_SOURCE_KEYS: Mapping[str, Validator] = {
    "git": _read_git_address,
    "directory": _read_line,
    "branches": validators.list_of(_read_line, "patterns of branches", 1),
    "paths": validators.list_of(validators.path_in_tree, "patterns of paths", 1),
    "bursts": validators.one_of("newest", "every"),
    "poll": validators.duration(),
}


def _read_source(document: Document, name: str, folder: Path, poll: float) -> Source:
    path = ("sources", name)
    document.check_name(path, {})
    values = {"poll": poll, **document.check_table(path, _SOURCE_KEYS)}
    if ("git" in values) == ("directory" in values):
        raise document.error(path, "must have either git or directory")
    if "directory" in values:
        if "branches" in values:
            raise document.error([*path, "branches"], "is for git; a directory has no branches")
        values["directory"] = str(folder / values["directory"])
    elif _is_path(values["git"]):
        values["git"] = str(folder / values["git"])
    return Source(name, **values)


def _is_path(address: str) -> bool:
    """Return whether git takes an address for a path: it is neither a URL nor ``host:path``."""
    return "://" not in address and ":" not in address.split("/")[0]


# -- hosts and pools -------------------------------------------------------------------------


_HOST_KEYS = {**HOST_VALIDATORS, "labels": validators.list_of(validators.label, "labels")}


def _read_host(document: Document, name: str) -> HostEntry:
    path = ("hosts", name)
    document.check_name(path, {})
    entry = parse_host_entry(document, name, _HOST_KEYS)
    try:
        specs.parse_specs([name], {name: entry})
    except InvalidHostSpec as error:
        raise InvalidConfig(
            document.format_error([*path, "spec"], f"cannot be used: {error}")
        ) from None
    return entry


def _read_options(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValue("a table")
    _check_plain(value)
    return value


def _check_plain(value: Any) -> None:
    """Raise InvalidValue if a value cannot be stored as JSON.  (Its depth was checked before.)"""
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_plain(item)
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        raise InvalidValue("a table of texts and of numbers that are not that large")
    elif not isinstance(value, (str, int, float)) or _is_infinite(value):
        raise InvalidValue("a table of texts, numbers, lists and tables; dates have to be texts")


def _is_infinite(value: str | float) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


_POOL_KEYS: Mapping[str, Validator] = {
    "kind": validators.name,
    "labels": validators.list_of(validators.label, "labels"),
    "max_hosts": validators.whole(1, 1000),
    "idle_timeout": validators.duration(),
    "max_jobs": validators.whole(0, 1_000_000),
    "options": _read_options,
}


def _read_pool(document: Document, name: str) -> Pool:
    document.check_name(("pools", name), {})
    return Pool(name, **document.check_table(("pools", name), _POOL_KEYS))


_RETENTION_KEYS: Mapping[str, Validator] = {
    "age": validators.duration(),
    "builds": validators.whole(0, 1_000_000),
    "levels": validators.list_of(validators.name, "names of levels"),
}


def explain(settings: Settings) -> list[str]:
    """Return lines that explain the settings, and warnings about likely mistakes."""
    lines = [f"data: {settings.data}", f"listens on {settings.address}, port {settings.port}"]
    lines += [_explain_source(each) for each in settings.sources]
    lines += [
        f"host {each.name}: {each.spec}{_format_labels(each.labels)}"
        for each in settings.hosts.values()
    ]
    for pool in settings.pools:
        labels = _format_labels(pool.labels)
        count = format_count(pool.max_hosts, "host")
        lines.append(f"pool {pool.name}: up to {count} of kind {pool.kind}{labels}")
    if not settings.sources:
        lines.append("warning: no [sources.NAME]: nothing is watched")
    if not settings.hosts and not settings.pools:
        lines.append("warning: no [hosts.NAME] and no [pools.NAME]: every job will wait")
    return lines


def _explain_source(source: Source) -> str:
    location = f"git {source.git}, {', '.join(source.branches)}" if source.git else source.directory
    paths = f", changes to {', '.join(source.paths)}" if source.paths else ""
    noun = "commit" if source.git else "state"
    changes = f"every {noun}" if source.bursts == "every" else f"the newest {noun}"
    return f"source {source.name}: {location}{paths}; {changes}, polled every {source.poll:g} s"


def _format_labels(labels: tuple[str, ...]) -> str:
    return f" ({', '.join(labels)})" if labels else ""
