"""The frozen values of durable jobs that a client and a host exchange.

Responsible for their shape and checks: no I/O, no clock. Like those of ``model``, they are named
tuples of plain JSON values; new fields are appended and have a default.
"""

import re
from typing import Any, Dict, NamedTuple, Optional, Tuple

from .fields import (
    FLAG,
    INTEGER,
    NON_NEGATIVE_INTEGER,
    NUMBER,
    TEXT,
    Check,
    InvalidField,
    abbreviate,
    check_fields,
    freeze,
    is_integer,
    is_text,
    list_of,
    optional,
    pairs_of,
)
from .model import Test

TREE = "tree"
ARCHIVE = "archive"
#: Values of ``keep_workspace``: when the workspace of the last attempt stays on the host.
KEEP_WORKSPACE_VALUES = ("never", "failed", "always")
#: Maximum number of labels of a job, of characters of a label or name, and of attempts.
MAX_LABELS, MAX_NAME_CHARS, MAX_ATTEMPTS = 50, 200, 100
#: Priorities lie between this and its negative.
MAX_PRIORITY = 1_000_000

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_URL = re.compile(r"^(https?://)(?:[^/?#]*@)?([^/?#]*).*", re.S)


class BadJob(ValueError):
    """A job's description is invalid; the message names the key."""


class Content(NamedTuple):
    """A build or a test tree in the host's blob store."""

    #: TREE: ``digest`` is that of a manifest; ARCHIVE: that of the file itself.
    kind: str
    digest: str
    #: Size in bytes of the manifest's first part, or of the archive.
    size: int
    #: A file name, for people and for the format of an archive.
    name: str = ""


class JobConfig(NamedTuple):
    """The configuration of a job: the keys of its file that concern the host."""

    #: A /bin/sh command that installs the build, run in the build's folder; empty: none.
    install: str = ""
    #: Time limit of the install command in seconds.
    install_timeout: float = 600.0
    #: Environment variables of the install command and of each test.
    environment: Tuple[Tuple[str, str], ...] = ()
    #: Names of environment variables of the host (``*`` allowed) that are passed on.
    pass_env: Tuple[str, ...] = ()
    #: Maximum number of concurrent tests; 0: the number of the host's cores.
    slots: int = 0
    #: Time limit of the whole job in seconds; 0: none.
    timeout: float = 0.0
    #: Number of times that a failed test runs again.
    retries: int = 0
    #: Maximum number of attempts; a job starts again after its worker or host died.
    attempts: int = 3
    #: One of ``KEEP_WORKSPACE_VALUES``.
    keep_workspace: str = "never"
    #: Seconds between SIGTERM and SIGKILL.
    grace: float = 2.0
    #: Maximum size of each kept output stream in bytes.
    keep_output: int = 1 << 20
    #: Maximum size of one test's artifacts in bytes.
    artifacts: int = 64 << 20
    #: Whether a test's stdout and stderr share one pipe.
    merge: bool = False
    #: Output formats, as in ``model.Setup``.
    formats: Tuple[Tuple[str, str], ...] = ()
    #: URL that is notified of the end of the job; empty: none.
    notify: str = ""
    #: Key that signs the notification.
    secret: str = ""


class JobTest(NamedTuple):
    """One test of a job."""

    #: Its name for people: its path, or ``path::repeat-1-of-3``.
    nodeid: str
    test: Test
    #: Number of times that it runs again after a failure; None: the value of the job.
    retries: Optional[int] = None
    #: The unmet requirement, such as "requires docker"; empty: it can run on this host.
    unmet: str = ""
    #: Properties of its JUnit testcase, in addition to those of every test.
    properties: Tuple[Tuple[str, str], ...] = ()


class NewJob(NamedTuple):
    """A job as a client submits it."""

    id: str
    tests: Content
    build: Optional[Content] = None
    config: JobConfig = JobConfig()
    cases: Tuple[JobTest, ...] = ()
    name: str = ""
    labels: Tuple[str, ...] = ()
    priority: int = 0


class Identity(NamedTuple):
    """The identity of a process; a later process with the same process id has another one."""

    pid: int
    #: Clock ticks between boot and its start (proc(5), /proc/PID/stat, field 22).
    start_ticks: str
    #: /proc/sys/kernel/random/boot_id.
    boot_id: str


def is_uuid(text: object) -> bool:
    """Return whether ``text`` is a UUID, and so may be the id of a job and a part of a path."""
    return isinstance(text, str) and _UUID.fullmatch(text) is not None


#: The checks of the fields of a JobConfig.
_CONFIG_CHECKS: Dict[str, Check] = {
    "install": TEXT, "install_timeout": NUMBER, "environment": pairs_of(TEXT),
    "pass_env": list_of(TEXT), "slots": NON_NEGATIVE_INTEGER, "timeout": NUMBER,
    "retries": NON_NEGATIVE_INTEGER,
    "attempts": Check(
        "a whole number, 1 to %d" % MAX_ATTEMPTS,
        lambda value: is_integer(value) and 1 <= value <= MAX_ATTEMPTS,
    ),
    "keep_workspace": Check(
        "one of %s" % ", ".join(KEEP_WORKSPACE_VALUES),
        lambda value: value in KEEP_WORKSPACE_VALUES,
    ),
    "grace": NUMBER, "keep_output": NON_NEGATIVE_INTEGER, "artifacts": NON_NEGATIVE_INTEGER,
    "merge": FLAG,
    "formats": pairs_of(TEXT),
    "notify": Check(
        "an http:// or https:// address",
        lambda value: value == "" or (is_text(value) and re.match("https?://", value) is not None),
    ),
    "secret": TEXT,
}  # fmt: skip


def parse_config(values: Dict[str, Any]) -> JobConfig:
    """Return the checked JobConfig of JSON values; raises BadJob, which names the key."""
    for key in values:
        if key not in JobConfig._fields:
            raise BadJob("config: unknown key %r" % (key,))
    try:
        check_fields(values, _CONFIG_CHECKS)
    except InvalidField as error:
        raise BadJob("config: %s" % error) from None
    return JobConfig(**{key: freeze(value) for key, value in values.items()})


#: The checks of all fields of a Test and of a JobTest.
_TEST_CHECKS: Dict[str, Check] = {
    "id": INTEGER, "path": TEXT, "timeout": NUMBER, "argv": list_of(TEXT), "cwd": TEXT,
    "home": TEXT, "env": pairs_of(TEXT), "pass_env": list_of(TEXT),
    "estimate": optional(NUMBER), "attempt": INTEGER, "output_format": TEXT, "leftovers": TEXT,
    "limits": pairs_of(INTEGER), "isolation": TEXT, "locks": list_of(TEXT), "serial": FLAG,
    "run": list_of(TEXT), "args": list_of(TEXT),
}  # fmt: skip
_JOB_TEST_CHECKS: Dict[str, Check] = {
    "nodeid": TEXT, "retries": optional(INTEGER), "unmet": TEXT, "properties": pairs_of(TEXT),
}  # fmt: skip


def parse_job_test(row: Any) -> JobTest:
    """Return the checked JobTest of a JSON row, with lists as tuples.

    Raises BadJob, which names the test and the field, for values with which a slot, a package or a
    report would fail later.
    """
    try:
        case = JobTest(*row)
        test = Test(*case.test)
    except TypeError as error:
        raise BadJob("not a test: %s" % error) from None
    try:
        check_fields(case._asdict(), _JOB_TEST_CHECKS)
        check_fields(test._asdict(), _TEST_CHECKS)
    except InvalidField as error:
        raise BadJob("test %s: %s" % (abbreviate(case.nodeid), error)) from None
    frozen = Test(*map(freeze, test))
    return case._replace(test=frozen, properties=freeze(case.properties))


def remove_secrets(config: JobConfig) -> JobConfig:
    """Return the configuration as it may be shown and packaged: variables without values, no
    secret.
    """
    names = tuple((name, "...") for name, _ in config.environment)
    # User, path and query of the URL may be credentials.
    notify = _URL.sub(r"\1\2/...", config.notify)
    return config._replace(secret="", environment=names, notify=notify)
