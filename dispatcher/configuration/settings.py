"""The dispatcher's own file: where its data is, what it watches, which hosts it has.

Owns the keys of dispatcher.toml, their checks and defaults.  The operator wrote it: it is trusted,
its mistakes are explained.  Pure: text in, frozen values out; nothing is opened or looked up.
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
from shell_runner.toml_document import Document, parse_document
from shell_runner.validators import InvalidSecret, InvalidValue, Validator

FILE_NAME = "dispatcher.toml"
DEFAULT_PORT = 7433
#: In the data folder, where a running dispatcher answers.
ADDRESS_FILE = "url"
#: How that begins there which is not whole yet.
TEMPORARY_PREFIX = ".part-"
_TOP = ("dispatcher", "sources", "hosts", "pools", "retention")


#: What servers take for a name and is a token: those of GitHub and GitLab, and what no person is
#: called.
_TOKEN = re.compile(r"(?:gh[a-z]_|github_pat_|gl[a-z]{1,5}-).*|(?=.*[0-9])[A-Za-z0-9_=-]{32,}")
_QUERY = re.compile(r"(?:^|[&;])[^=&;]*(?:token|password|secret|key)[^=&;]*=", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """``[sources.NAME]``: a git repository, or a directory."""

    name: str
    #: Address of a repository, as git takes it; empty: it is a directory.
    git: str = ""
    directory: str = ""
    #: Patterns of the branches that are built.
    branches: tuple[str, ...] = ("main", "master")
    #: Only changes to such paths are built; empty: all.
    paths: tuple[str, ...] = ()
    #: ``newest``: of changes that have not begun only the last one of a branch; or ``every``.
    bursts: str = "newest"
    #: Seconds between two looks.
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
    """``[retention]``: what of old builds stays; their rows always do."""

    #: Seconds that artefacts and packages of a build are kept.
    age: float = 90 * 86_400.0
    #: The newest builds of a source stay, however old they are.
    builds: int = 20
    #: Builds with one of these levels stay.
    levels: tuple[str, ...] = ("ship",)


@dataclass(frozen=True)
class Settings:
    """All of the file."""

    #: Folder of the database and of the blobs.
    data: Path
    address: str = "127.0.0.1"
    #: 0: any that is free.
    port: int = DEFAULT_PORT
    #: Seconds between two looks at a source that says nothing else.
    poll: float = 30.0
    #: Seconds without an answer after which the jobs of a host are lost.
    lease: float = 120.0
    #: Infrastructure failures in a row that put a host into quarantine.
    quarantine: int = 3
    #: Jobs that a host has at a time: one runs, the others are in its queue.
    queue: int = 2
    sources: tuple[Source, ...] = ()
    hosts: Mapping[str, HostEntry] = field(default_factory=dict)
    pools: tuple[Pool, ...] = ()
    retention: Retention = Retention()


def parse(text: str | bytes, folder: Path, name: str = FILE_NAME) -> Settings:
    """The checked settings of a text; ``folder`` is where relative paths begin.

    InvalidConfig names file, line and key.
    """
    doc = parse_document(name, text)
    doc.check_keys((), _TOP)
    own = doc.check_table(("dispatcher",), _OWN)
    address, port = own.pop("listen", (Settings.address, Settings.port))
    poll = own.get("poll", Settings.poll)
    return Settings(
        folder / own.pop("data", "nosejobs-data"),
        address,
        port,
        sources=tuple(_source(doc, each, folder, poll) for each in doc.table(["sources"])),
        hosts={each: _host(doc, each) for each in doc.table(["hosts"])},
        pools=tuple(_pool(doc, each) for each in doc.table(["pools"])),
        retention=Retention(**doc.check_table(("retention",), _RETENTION)),
        **own,
    )


def _listen(value: Any) -> tuple[str, int]:
    """An address of this machine alone, until requests have to say who they are."""
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise InvalidValue(f'an address and a port, as "127.0.0.1:{DEFAULT_PORT}" or "[::1]:{DEFAULT_PORT}"')
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


_LINE = validators.line()
_OWN: Mapping[str, Validator] = {
    "data": _LINE,
    "listen": _listen,
    "poll": validators.duration(),
    "lease": validators.duration(),
    "quarantine": validators.whole(1, 1000),
    "queue": validators.whole(1, 1000),
}


# -- sources ---------------------------------------------------------------------------------


def _repository(value: Any) -> str:
    text: str = _LINE(value)
    if text.startswith("-"):
        raise InvalidValue("the address of a repository")
    if re.match(r"[A-Za-z0-9]+::", text):
        raise InvalidValue("an address without a helper program: 'name::' runs one")
    if "://" in text and _has_secret(text):
        words = "a password or a token, which all would see; use git's credentials"
        raise InvalidSecret(f"an address without {words}")
    return text


def _has_secret(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # A password with a slash makes a port of its beginning.
        raise InvalidSecret(
            "the address of a repository, with a number as its port, if any"
        ) from None
    by_name = parts.scheme.lower() in ("http", "https") and _TOKEN.fullmatch(parts.username or "")
    return parts.password is not None or bool(by_name or _QUERY.search(parts.query))


_SOURCE: Mapping[str, Validator] = {
    "git": _repository,
    "directory": _LINE,
    "branches": validators.list_of(_LINE, "patterns of branches", 1),
    "paths": validators.list_of(validators.path_in_tree, "patterns of paths", 1),
    "bursts": validators.one_of("newest", "every"),
    "poll": validators.duration(),
}


def _source(doc: Document, name: str, folder: Path, poll: float) -> Source:
    path = ("sources", name)
    doc.check_name(path, {})
    values = {"poll": poll, **doc.check_table(path, _SOURCE)}
    if ("git" in values) == ("directory" in values):
        raise doc.error(path, "must have either git or directory")
    if "directory" in values:
        if "branches" in values:
            raise doc.error([*path, "branches"], "is for git; a directory has none")
        values["directory"] = str(folder / values["directory"])
    elif _is_path(values["git"]):
        values["git"] = str(folder / values["git"])
    return Source(name, **values)


def _is_path(address: str) -> bool:
    """As git sees it: neither a URL nor ``host:path``."""
    return "://" not in address and ":" not in address.split("/")[0]


# -- hosts and pools -------------------------------------------------------------------------


_HOST = {**HOST_VALIDATORS, "labels": validators.list_of(validators.label, "labels")}


def _host(doc: Document, name: str) -> HostEntry:
    path = ("hosts", name)
    doc.check_name(path, {})
    entry = parse_host_entry(doc, name, _HOST)
    try:
        specs.parse_specs([name], {name: entry})
    except InvalidHostSpec as error:
        raise InvalidConfig(doc.format_error([*path, "spec"], f"cannot be used: {error}")) from None
    return entry


def _options(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValue("a table")
    _check_plain(value)
    return value


def _check_plain(value: Any) -> None:
    """What a row can keep as JSON.  (How deep it can be was checked before.)"""
    if isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            _check_plain(each)
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        raise InvalidValue("a table of texts and of numbers that are not that large")
    elif not isinstance(value, (str, int, float)) or _endless(value):
        raise InvalidValue("a table of texts, numbers, lists and tables; dates have to be texts")


def _endless(value: str | float) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


_POOL: Mapping[str, Validator] = {
    "kind": validators.name,
    "labels": validators.list_of(validators.label, "labels"),
    "max_hosts": validators.whole(1, 1000),
    "idle_timeout": validators.duration(),
    "max_jobs": validators.whole(0, 1_000_000),
    "options": _options,
}


def _pool(doc: Document, name: str) -> Pool:
    doc.check_name(("pools", name), {})
    return Pool(name, **doc.check_table(("pools", name), _POOL))


_RETENTION: Mapping[str, Validator] = {
    "age": validators.duration(),
    "builds": validators.whole(0, 1_000_000),
    "levels": validators.list_of(validators.name, "names of levels"),
}


def explain(settings: Settings) -> list[str]:
    """What the settings mean, line by line, and what of it is likely not meant."""
    lines = [f"data in {settings.data}", f"answers on {settings.address}, port {settings.port}"]
    lines += [_explain_source(each) for each in settings.sources]
    lines += [
        f"host {each.name}: {each.spec}{_with(each.labels)}" for each in settings.hosts.values()
    ]
    for pool in settings.pools:
        lines.append(f"pool {pool.name}: up to {pool.max_hosts} of kind {pool.kind}{_with(pool.labels)}")
    if not settings.sources:
        lines.append("warning: no [sources.NAME]: there is nothing to watch")
    if not settings.hosts and not settings.pools:
        lines.append("warning: no [hosts.NAME] and no [pools.NAME]: every job will wait")
    return lines


def _explain_source(source: Source) -> str:
    where = f"git {source.git}, {', '.join(source.branches)}" if source.git else source.directory
    paths = f", changes to {', '.join(source.paths)}" if source.paths else ""
    what = "commit" if source.git else "state"
    which = f"every {what}" if source.bursts == "every" else f"the newest {what}"
    return f"source {source.name}: {where}{paths}; {which}, a look every {source.poll:g} s"


def _with(labels: tuple[str, ...]) -> str:
    return f" ({', '.join(labels)})" if labels else ""
