"""The frozen values of durable jobs: what is handed to a host, and what it says of it.

Owns their shape and checks: no I/O, no clock.  Like those of ``model``, they are named
tuples of plain JSON values; new fields go to the end and have a default.
"""

import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .model import Test

TREE = "tree"
ARCHIVE = "archive"
#: When the workspace of an attempt stays on the host.
KEEP = ("never", "failed", "always")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


_URL = re.compile(r"^(https?://)(?:[^/?#]*@)?([^/?#]*).*", re.S)


class BadJob(ValueError):
    """A job cannot be as it is described; the message names the key."""


class Content(NamedTuple):
    """A build or tests, as the host's store has them."""

    #: ``tree``: ``digest`` is that of a manifest; ``archive``: that of the file itself.
    kind: str
    digest: str
    #: Bytes of the manifest's first part, or of the archive.
    size: int
    #: For people, and for telling the kind of an archive.
    name: str = ""


class JobConfig(NamedTuple):
    """How a job is to be run; the keys of a job's file, but for those of the client."""

    #: A command of /bin/sh that installs the build, in the folder of the build; empty: none.
    install: str = ""
    #: Seconds until the install command is stopped.
    install_timeout: float = 600.0
    #: Variables of the install command and of each test.
    environment: Tuple[Tuple[str, str], ...] = ()
    #: Names of the host's variables (``*`` allowed) that are passed on.
    pass_env: Tuple[str, ...] = ()
    #: Tests at the same time; 0: as many as the host has cores.
    slots: int = 0
    #: Seconds until what has not ended of the job's tests is cancelled; 0: none.
    timeout: float = 0.0
    #: How often a test that failed runs again.
    retries: int = 0
    #: How often the job may start: again after its worker or host died.
    attempts: int = 3
    keep_workspace: str = "never"
    #: Seconds between SIGTERM and SIGKILL.
    grace: float = 2.0
    #: Bytes kept of each output stream.
    keep_output: int = 1 << 20
    #: Bytes of artefacts of one test.
    artefacts: int = 64 << 20
    merge: bool = False
    #: Formats of output, as in ``model.Setup``.
    formats: Tuple[Tuple[str, str], ...] = ()
    #: Where to POST that the job has ended; empty: nowhere.
    notify: str = ""
    #: What the POST is signed with.
    secret: str = ""


class JobTest(NamedTuple):
    """One test of a job."""

    #: What it is called by people: its path, or ``path::repeat-1-of-3``.
    nodeid: str
    test: Test
    #: How often it runs again after a failure; None: as the job has it.
    retries: Optional[int] = None
    #: Why it cannot run on this host ("requires docker"); empty: it can.
    unmet: str = ""
    #: Properties of its JUnit testcase, beside those of every test.
    properties: Tuple[Tuple[str, str], ...] = ()


class NewJob(NamedTuple):
    """A job as it is handed in."""

    id: str
    tests: Content
    build: Optional[Content] = None
    config: JobConfig = JobConfig()
    cases: Tuple[JobTest, ...] = ()
    name: str = ""
    labels: Tuple[str, ...] = ()
    priority: int = 0


class Identity(NamedTuple):
    """A process, and no other one that has its number later."""

    pid: int
    #: Clock ticks between boot and its start (proc(5), /proc/PID/stat, field 22).
    start: str
    #: /proc/sys/kernel/random/boot_id.
    boot: str


def is_uuid(text: object) -> bool:
    """Whether it may be the name of a job, and a part of a path."""
    return isinstance(text, str) and _UUID.fullmatch(text) is not None


def is_text(value: object) -> bool:
    """Whether it may be an argument, a variable, or part of a path; odd bytes are surrogates."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        return value.encode("utf-8", "surrogateescape") is not None
    except UnicodeEncodeError:
        return False


def config_from(values: Dict[str, Any]) -> JobConfig:
    """A checked JobConfig of JSON values; BadJob names the key that is unknown or wrong."""
    for key, value in values.items():
        if key not in JobConfig._fields:
            raise BadJob("config: unknown key %r" % (key,))
        _check(key, value, getattr(JobConfig(), key))
    found = JobConfig(**values)
    found = found._replace(
        environment=_pairs("environment", found.environment),
        pass_env=_texts("pass_env", found.pass_env),
        formats=_pairs("formats", found.formats),
    )
    if found.keep_workspace not in KEEP:
        raise BadJob("config: keep_workspace is one of %s" % ", ".join(KEEP))
    if not 1 <= found.attempts <= 100:
        raise BadJob("config: attempts is 1 to 100, not %r" % found.attempts)
    if found.notify and not re.match(r"https?://", found.notify):
        raise BadJob("config: notify is an http:// or https:// address")
    return found


def without_secrets(config: JobConfig) -> JobConfig:
    """As it may be shown, and kept in packages: names of variables, and where it notifies."""
    names = tuple((name, "...") for name, _ in config.environment)
    # What stands before the host, or behind it, lets who knows it post in somebody's name.
    notify = _URL.sub(r"\1\2/...", config.notify)
    return config._replace(secret="", environment=names, notify=notify)


#: What no number of a job comes near.
_MOST = 1e12


def _check(key: str, value: object, default: object) -> None:
    kind = type(default)
    if isinstance(default, bool) or isinstance(value, bool):
        good = isinstance(value, bool) and isinstance(default, bool)
    elif isinstance(default, (int, float)):
        fits = isinstance(value, int) or (isinstance(value, float) and kind is float)
        good = fits and 0 <= value < _MOST  # type: ignore[operator]
    elif isinstance(default, str):
        good = is_text(value)
    else:
        good = isinstance(value, (list, tuple))
    if not good:
        raise BadJob("config: %s cannot be %r" % (key, value))


def _texts(key: str, values: Any) -> Tuple[str, ...]:
    for value in values:
        if not is_text(value):
            raise BadJob("config: %s holds texts, not %r" % (key, value))
    return tuple(values)


def _pairs(key: str, rows: Any) -> Tuple[Tuple[str, str], ...]:
    found: List[Tuple[str, str]] = []
    for row in rows:
        if not isinstance(row, (list, tuple)) or len(row) != 2:
            raise BadJob("config: %s holds pairs of texts, not %r" % (key, row))
        name, value = _texts(key, row)
        found.append((name, value))
    return tuple(found)
