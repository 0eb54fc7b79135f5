"""The rows of a host's queue, as values.

Pure: converts columns to values and values to columns. Two versions of nosejobs may share a queue:
fields that a newer version appended to a value are dropped, and missing fields get their defaults.

A job row of which only the state can be read is still a job: it must be possible to list it, to end
it and to forget it. Its ``unreadable`` says what is wrong with it, and it is never run.
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
from ..protocol.job import ARCHIVE, Content, Identity, JobConfig, JobTest, NewJob, parse_config
from ..protocol.model import Test
from .states import AttemptPhase, EndReason, State

#: Replaces contents that cannot be read.
_UNREADABLE_CONTENT = Content(ARCHIVE, "0" * 64, 0, "unreadable")
#: Exceptions that parsing an invalid value raises.
_PARSE_ERRORS = (TypeError, ValueError, AttributeError, IndexError)
T = TypeVar("T")


class BadRow(Exception):
    """A row cannot be parsed: the file is damaged."""


class JobRow(NamedTuple):
    """A job in the queue."""

    #: The order among jobs of the same priority.
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
    test_count: int
    state: State
    #: None until it has ended.
    end_reason: Optional[EndReason]
    detail: str
    cancel_requested: bool
    waiting_reason: str
    submitted_at: float
    ended_at: Optional[float]
    #: SHA-256 and size in bytes of its package; empty and 0 while there is none.
    package_digest: str
    package_size: int
    harvested_at: Optional[float]
    #: The columns that cannot be read, with the errors; empty: all can be read.
    unreadable: str = ""


class AttemptRow(NamedTuple):
    """One start of a job."""

    id: str
    #: Number of the job.
    job: int
    number: int
    phase: AttemptPhase
    detail: str
    #: The worker that runs it.
    worker: Identity
    started_at: float
    #: When its run ended; its package may not be built yet.
    ended_at: Optional[float]
    #: JSON of the Execution of the install command; None if it did not run.
    install: Optional[str]


class WorkerRow(NamedTuple):
    """The worker that registered last and has not deregistered; it may be dead."""

    identity: Identity
    code: str
    registered_at: float


class OutboxRow(NamedTuple):
    """A notification of the end of a job that is still to be delivered."""

    number: int
    #: UUID of the job.
    job: str
    url: str
    secret: str
    body: str
    attempts: int
    due_at: float
    error: str


def parse_job_row(columns: Sequence[Any]) -> JobRow:
    """Return the job of the columns of table ``job``.

    Raises :exc:`BadRow` if its state cannot be read. Any other column that cannot be read is
    replaced by a default and named in ``unreadable``.
    """
    try:
        row = JobRow(*columns)
        state = State(row.state)
    except (TypeError, ValueError) as error:
        raise BadRow("invalid row of a job: %s" % error) from error
    errors: List[str] = []

    def read(column: str, parse: Callable[[Any], T], default: T) -> T:
        try:
            return parse(getattr(row, column))
        except _PARSE_ERRORS as error:
            errors.append("%s: %s" % (column, error))
            return default

    row = row._replace(
        labels=read("labels", _parse_labels, ()),
        build=read("build", _parse_content, None),
        tests=read("tests", _parse_required_content, _UNREADABLE_CONTENT),
        config=read("config", _parse_config, JobConfig()),
        state=state,
        end_reason=read("end_reason", lambda text: EndReason(text) if text else None, None),
        cancel_requested=bool(row.cancel_requested),
    )
    return row._replace(unreadable="; ".join(errors))


def parse_attempt_row(columns: Sequence[Any]) -> AttemptRow:
    """Return the attempt of the columns of table ``attempt``.

    Raises :exc:`BadRow` if the number of columns is wrong.
    """
    try:
        id, job, number, text, detail, pid, start, boot, started_at, ended_at, install = columns
    except (TypeError, ValueError) as error:
        raise BadRow("invalid row of an attempt: %s" % error) from error
    try:
        phase = AttemptPhase(text)
    except ValueError:
        # An attempt in an unknown phase can still be lost, so that its job continues.
        phase = AttemptPhase.TESTING if ended_at is None else AttemptPhase.LOST
    worker = Identity(pid, start, boot)
    return AttemptRow(id, job, number, phase, detail, worker, started_at, ended_at, install)


def parse_worker_row(columns: Sequence[Any]) -> WorkerRow:
    """Return the worker of the columns of table ``worker`` without ``singleton``."""
    pid, start, boot, code, registered_at = columns
    return WorkerRow(Identity(pid, start, boot), code, registered_at)


def parse_job_test(number: int, text: str) -> JobTest:
    """Return the test of column ``test.row``.

    A test that cannot be read has no path, and its property ``unreadable`` gives the error.
    """
    try:
        job_test = JobTest(*json.loads(text)[: len(JobTest._fields)])
        test: List[Any] = [freeze(value) for value in job_test.test[: len(Test._fields)]]
        return job_test._replace(test=Test(*test), properties=freeze(job_test.properties))
    except _PARSE_ERRORS as error:
        properties = (("unreadable", escape_surrogates(str(error))),)
        return JobTest("unreadable-%d" % number, Test(number, ""), properties=properties)


def encode_job(job: NewJob) -> Tuple[Any, ...]:
    """Return the columns of a job from ``name`` to ``config``, without its code and state."""
    return (
        escape_surrogates(job.name),
        # One label a line, see ``encode_label``.
        json.dumps(job.labels, indent=0),
        job.priority,
        _encode_json(job.build),
        _encode_json(job.tests),
        _encode_json(job.config._asdict()),
    )


def remove_secret(config: str) -> str:
    """Return column ``config`` without the key that signs the notification."""
    return _encode_json({**json.loads(config), "secret": ""})


def encode_tests(job: NewJob) -> List[Tuple[int, str]]:
    """Return the rows of a job's tests: their numbers, by position, and their JSON."""
    return [
        (number, _encode_json(case._replace(test=case.test._replace(id=number))))
        for number, case in enumerate(job.cases)
    ]


def encode_label(label: str) -> str:
    """Return the text that column ``labels`` contains if and only if the job has this label."""
    # In JSON text a raw newline is never part of a string.
    return "\n%s" % json.dumps(label)


def escape_surrogates(text: str) -> str:
    """Return ``text`` with undecodable bytes as escapes, since SQLite stores only valid text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _encode_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def parse_contents(*texts: str) -> Iterator[Content]:
    """Yield the contents in columns ``build`` and ``tests``; skip those that cannot be read."""
    for text in texts:
        try:
            content = _parse_content(text)
        except _PARSE_ERRORS:
            continue
        if content is not None:
            yield content


def _parse_labels(text: str) -> Tuple[str, ...]:
    return tuple(json.loads(text))


def _parse_content(text: str) -> Optional[Content]:
    value = json.loads(text)
    if value is None:
        return None
    content = Content(*value[: len(Content._fields)])
    if not isinstance(content.digest, str) or type(content.size) is not int:
        raise ValueError("invalid contents: %r" % (content,))
    return content


def _parse_required_content(text: str) -> Content:
    content = _parse_content(text)
    if content is None:
        raise ValueError("missing")
    return content


def _parse_config(text: str) -> JobConfig:
    values: Dict[str, Any] = json.loads(text)
    return parse_config({key: values[key] for key in JobConfig._fields if key in values})
