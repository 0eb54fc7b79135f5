"""The frozen values of durable jobs: what is handed to a host, and what it says of it.

Owns their shape and checks: no I/O, no clock.  Like those of ``model``, they are named
tuples of plain JSON values; new fields go to the end and have a default.
"""

import re
from typing import Any, Dict, NamedTuple, Optional, Tuple

from .fields import (
    FLAG,
    NUMBER,
    TEXT,
    WHOLE,
    Check,
    InvalidField,
    check_fields,
    freeze,
    is_integer,
    is_text,
    list_of,
    pairs_of,
)
from .model import Test

TREE = "tree"
ARCHIVE = "archive"
#: When the workspace of an attempt stays on the host.
KEEP = ("never", "failed", "always")
#: Labels of a job, characters of a label or a name, starts of a job.
MAX_LABELS, MAX_NAME_CHARS, MAX_ATTEMPTS = 50, 200, 100
#: Priorities are between this and its negative.
MAX_PRIORITY = 1_000_000

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


#: What the fields of a JobConfig may be.
_CONFIG: Dict[str, Check] = {
    "install": TEXT, "install_timeout": NUMBER, "environment": pairs_of(TEXT),
    "pass_env": list_of(TEXT), "slots": WHOLE, "timeout": NUMBER, "retries": WHOLE,
    "attempts": Check(
        "a whole number, 1 to %d" % MAX_ATTEMPTS,
        lambda value: is_integer(value) and 1 <= value <= MAX_ATTEMPTS,
    ),
    "keep_workspace": Check("one of %s" % ", ".join(KEEP), lambda value: value in KEEP),
    "grace": NUMBER, "keep_output": WHOLE, "artefacts": WHOLE, "merge": FLAG,
    "formats": pairs_of(TEXT),
    "notify": Check(
        "an http:// or https:// address",
        lambda value: value == "" or (is_text(value) and re.match("https?://", value) is not None),
    ),
    "secret": TEXT,
}  # fmt: skip


def config_from(values: Dict[str, Any]) -> JobConfig:
    """Return a checked JobConfig of JSON values; BadJob names the key that is unknown or wrong."""
    for key in values:
        if key not in JobConfig._fields:
            raise BadJob("config: unknown key %r" % (key,))
    try:
        check_fields(values, _CONFIG)
    except InvalidField as error:
        raise BadJob("config: %s" % error) from None
    return JobConfig(**{key: freeze(value) for key, value in values.items()})


def without_secrets(config: JobConfig) -> JobConfig:
    """As it may be shown, and kept in packages: names of variables, and where it notifies."""
    names = tuple((name, "...") for name, _ in config.environment)
    # What stands before the host, or behind it, lets who knows it post in somebody's name.
    notify = _URL.sub(r"\1\2/...", config.notify)
    return config._replace(secret="", environment=names, notify=notify)
