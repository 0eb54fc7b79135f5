"""The rows of a host's queue, as values.

Pure: makes values of columns and columns of values.  Two versions share a queue, so what a
newer one adds to the end of a value is dropped; what is missing has its default.
"""

import json
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .job import Content, Identity, JobConfig, JobTest, NewJob
from .model import Test
from .states import How, State, Step


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
        return found._replace(
            labels=tuple(json.loads(columns[3])),
            build=_content(columns[6]),
            tests=Content(*json.loads(columns[7])[: len(Content._fields)]),
            config=_config(json.loads(columns[8])),
            state=State(found.state),
            how=How(found.how) if found.how else None,
            cancelled=bool(found.cancelled),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise BadRow("a job cannot be read: %s" % error) from error


def attempt_row(columns: Sequence[Any]) -> AttemptRow:
    """Of the columns of table ``attempt``."""
    try:
        key, job, number, step, detail, pid, start, boot, *rest = columns
        return AttemptRow(key, job, number, Step(step), detail, Identity(pid, start, boot), *rest)
    except (TypeError, ValueError) as error:
        raise BadRow("an attempt cannot be read: %s" % error) from error


def worker_row(columns: Sequence[Any]) -> WorkerRow:
    """Of the columns of table ``worker`` without its key."""
    pid, start, boot, code, since = columns
    return WorkerRow(Identity(pid, start, boot), code, since)


def job_test(text: str) -> JobTest:
    """Of column ``test.row``."""
    try:
        found = JobTest(*json.loads(text)[: len(JobTest._fields)])
        test: List[Any] = [_frozen(value) for value in found.test[: len(Test._fields)]]
        return found._replace(test=Test(*test), properties=_frozen(found.properties))
    except (TypeError, ValueError, IndexError) as error:
        raise BadRow("a test cannot be read: %s" % error) from error


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


def _content(text: str) -> Optional[Content]:
    value = json.loads(text)
    return None if value is None else Content(*value[: len(Content._fields)])


def _config(values: Dict[str, Any]) -> JobConfig:
    known = {key: _frozen(values[key]) for key in JobConfig._fields if key in values}
    return JobConfig(**known)


def _frozen(value: Any) -> Any:
    """JSON's lists are our tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
