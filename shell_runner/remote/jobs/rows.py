"""The rows of a host's queue, as values.

Pure: makes values of columns and columns of values.  Two versions share a queue, so what a
newer one adds to the end of a value is dropped; what is missing has its default.

A row of which only the state can be read is a job still: it must be possible to list it, to end
it and to forget it.  It says what is wrong with it, and nobody runs it.
"""

import json
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)  # fmt: skip

from ..protocol.fields import freeze
from ..protocol.job import ARCHIVE, Content, Identity, JobConfig, JobTest, NewJob, config_from
from ..protocol.model import Test
from .states import How, State, Step

#: In place of contents that nobody can name.
_NOTHING = Content(ARCHIVE, "0" * 64, 0, "unreadable")
#: What reading a value raises that is none.
_ODD = (TypeError, ValueError, AttributeError, IndexError)
T = TypeVar("T")


class BadRow(Exception):
    """A row cannot be what it should be: the file is damaged."""


class JobRow(NamedTuple):
    """A job in the queue."""

    #: Its place among those of the same priority.
    number: int
    id: str
    name: str
    labels: Tuple[str, ...]
    priority: int
    #: Digest of the zip that runs it.
    code: str
    build: Optional[Content]
    tests: Content
    config: JobConfig
    #: Tests that it has.
    count: int  # type: ignore[assignment] # nobody counts columns
    state: State
    #: None until it has ended.
    how: Optional[How]
    detail: str
    cancelled: bool
    trouble: str
    submitted: float
    ended: Optional[float]
    #: SHA-256 and bytes of its package, once there is one.
    package: str
    size: int
    harvested: Optional[float]
    #: What of the row cannot be read, and why; empty: all of it can.
    unreadable: str = ""


class AttemptRow(NamedTuple):
    """One start of a job."""

    id: str
    #: Number of the job.
    job: int
    number: int
    step: Step
    detail: str
    #: The worker.
    identity: Identity
    began: float
    #: When its run ended; its package may still be in the making.
    ended: Optional[float]
    #: Row of the Execution of the install command.
    install: Optional[str]


class WorkerRow(NamedTuple):
    """The worker that was last seen at work."""

    identity: Identity
    code: str
    since: float


class OutboxRow(NamedTuple):
    """Somebody to be told of a job's end."""

    number: int
    #: UUID.
    job: str
    url: str
    secret: str
    body: str
    tries: int
    due: float
    trouble: str


def job_row(columns: Sequence[Any]) -> JobRow:
    """Of the columns of table ``job``."""
    try:
        found = JobRow(*columns)
        state = State(found.state)
    except (TypeError, ValueError) as error:
        raise BadRow("a job cannot be read: %s" % error) from error
    odd: List[str] = []

    def read(column: str, parse: Callable[[Any], T], instead: T) -> T:
        try:
            return parse(getattr(found, column))
        except _ODD as error:
            odd.append("%s: %s" % (column, error))
            return instead

    found = found._replace(
        labels=read("labels", _labels, ()),
        build=read("build", _content, None),
        tests=read("tests", _required, _NOTHING),
        config=read("config", _config, JobConfig()),
        state=state,
        how=read("how", lambda how: How(how) if how else None, None),
        cancelled=bool(found.cancelled),
    )
    return found._replace(unreadable="; ".join(odd))


def attempt_row(columns: Sequence[Any]) -> AttemptRow:
    """Of the columns of table ``attempt``."""
    try:
        key, job, number, step, detail, pid, start, boot, began, ended, install = columns
    except (TypeError, ValueError) as error:
        raise BadRow("an attempt cannot be read: %s" % error) from error
    try:
        known = Step(step)
    except ValueError:
        # Whatever it was at: it can be lost, and the job goes on.
        known = Step.TESTING if ended is None else Step.LOST
    worker = Identity(pid, start, boot)
    return AttemptRow(key, job, number, known, detail, worker, began, ended, install)


def worker_row(columns: Sequence[Any]) -> WorkerRow:
    """Of the columns of table ``worker`` without its key."""
    pid, start, boot, code, since = columns
    return WorkerRow(Identity(pid, start, boot), code, since)


def job_test(number: int, text: str) -> JobTest:
    """Of column ``test.row``; without a path if it cannot be read, and with the reason."""
    try:
        found = JobTest(*json.loads(text)[: len(JobTest._fields)])
        test: List[Any] = [freeze(value) for value in found.test[: len(Test._fields)]]
        return found._replace(test=Test(*test), properties=freeze(found.properties))
    except _ODD as error:
        why = (("unreadable", clean(str(error))),)
        return JobTest("unreadable-%d" % number, Test(number, ""), properties=why)


def job_columns(job: NewJob) -> Tuple[Any, ...]:
    """What it is, from ``name`` to ``config``, without its code and state."""
    return (
        clean(job.name),
        # Each on a line of its own, see ``label_text``.
        json.dumps(job.labels, indent=0),
        job.priority,
        _text(job.build),
        _text(job.tests),
        _text(job.config._asdict()),
    )


def without_secret(config: str) -> str:
    """Column ``config`` without what its notification is signed with; all else as it was."""
    return _text({**json.loads(config), "secret": ""})


def test_columns(job: NewJob) -> List[Tuple[int, str]]:
    """Its tests, numbered by their place."""
    return [
        (number, _text(case._replace(test=case.test._replace(id=number))))
        for number, case in enumerate(job.cases)
    ]


def label_text(label: str) -> str:
    """What a list of labels that has this one has in its text, and no other list."""
    # In JSON text a raw newline is never part of a string.
    return "\n%s" % json.dumps(label)


def clean(text: str) -> str:
    """Bytes that are no text, in words: SQLite takes none."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def contents(*texts: str) -> Iterator[Content]:
    """Those that are named in columns ``build`` and ``tests``, as far as they can be read."""
    for text in texts:
        try:
            found = _content(text)
        except _ODD:
            continue
        if found is not None:
            yield found


def _labels(text: str) -> Tuple[str, ...]:
    return tuple(json.loads(text))


def _content(text: str) -> Optional[Content]:
    value = json.loads(text)
    if value is None:
        return None
    found = Content(*value[: len(Content._fields)])
    if not isinstance(found.digest, str) or type(found.size) is not int:
        raise ValueError("no contents: %r" % (found,))
    return found


def _required(text: str) -> Content:
    found = _content(text)
    if found is None:
        raise ValueError("none")
    return found


def _config(text: str) -> JobConfig:
    values: Dict[str, Any] = json.loads(text)
    return config_from({key: values[key] for key in JobConfig._fields if key in values})
