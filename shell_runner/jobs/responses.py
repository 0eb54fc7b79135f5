"""What a host says of its jobs, as frozen values; of which nothing is believed.

Pure: makes values of JSON.  Every text of them is safe to be shown, every number is one, and
what cannot be is an InvalidField.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..remote.protocol.fields import MAX_ITEMS, Fields, InvalidField, is_digest
from ..remote.protocol.job import ARCHIVE, TREE, Content, JobConfig, is_uuid
from ..remote.protocol.job_summary import STATES, JobSummary, parse_summary
from ..remote.protocol.model import OUTCOMES, Test, execution_from_row
from ..remote.protocol.verdict import judge
from ..text import to_single_line


@dataclass(frozen=True)
class Attempt:
    """One start of a job."""

    id: str
    number: int
    step: str
    detail: str
    began: float
    ended: float | None


@dataclass(frozen=True)
class FailedTest:
    """A test that has failed, and why in a few words."""

    nodeid: str
    outcome: str
    words: str


@dataclass(frozen=True)
class Untold:
    """A notification that was not delivered yet."""

    tries: int
    #: Until the next one.
    seconds: float
    #: Why the last one was in vain; empty before the first.
    trouble: str


@dataclass(frozen=True)
class Report:
    """What is known of one job."""

    job: JobSummary
    #: Jobs before it in the queue.
    ahead: int
    attempts: tuple[Attempt, ...]
    #: The first of the tests that have failed, and how many there are.
    failed: tuple[FailedTest, ...]
    failures: int
    config: Mapping[str, Any]
    build: Content | None
    tests: Content | None
    #: Why no worker could be started; empty if one is there or not needed.
    no_worker: str = ""
    #: The folder on the host in which its workspace is kept; empty: it is not.
    workspace: str = ""
    #: The notification, if it was not delivered yet.
    untold: Untold | None = None


@dataclass(frozen=True)
class Listing:
    """Jobs of a host, newest first, and how many it has in each state."""

    jobs: tuple[JobSummary, ...]
    counts: Mapping[str, int]
    no_worker: str = ""


def _fields(values: Any) -> Fields:
    return Fields(values, to_single_line)


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidField(f"{value!r:.50} where a text is")
    return to_single_line(value)


def job_of(values: Any) -> JobSummary:
    """Return what a list shows of a job."""
    return parse_summary(values, to_single_line)


def _attempt(values: Any) -> Attempt:
    found = _fields(values)
    if not is_uuid(found["id"]):
        raise InvalidField(f"attempt {found['id']!r:.50}")
    return Attempt(
        found["id"], found.whole("number"), found.text("step"), found.text("detail"),
        found.number("began"), found.date("ended"),
    )  # fmt: skip


def _failed(row: Any) -> FailedTest:
    if not isinstance(row, list) or len(row) != 4 or row[1] not in OUTCOMES:
        raise InvalidField(f"a failed test {row!r:.50}")
    words = ""
    if row[3] is not None:
        try:
            words = judge(Test(*row[2]), execution_from_row(row[3])).words
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidField(str(error)) from error
    return FailedTest(_word(row[0]), row[1], to_single_line(words))


def _content(row: Any) -> Content | None:
    if row is None:
        return None
    if not isinstance(row, list) or len(row) != 4 or not is_digest(row[1]):
        raise InvalidField(f"contents {row!r:.50}")
    if row[0] not in (TREE, ARCHIVE) or type(row[2]) is not int:
        raise InvalidField(f"contents {row!r:.50}")
    return Content(row[0], row[1], row[2], _word(row[3]))


def _config(values: Any) -> dict[str, Any]:
    """To be shown only: texts without control characters, and no secret."""
    found = _fields(values)
    known = [name for name in JobConfig._fields if name != "secret"]
    return {name: _shown(found[name]) for name in known}


def _shown(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return to_single_line(value, 4000)
    if isinstance(value, list) and len(value) <= MAX_ITEMS and depth < 3:
        return [_shown(each, depth + 1) for each in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise InvalidField(f"config {value!r:.50}")


def report_of(values: Any) -> Report:
    """What is known of one job."""
    found, failed = _fields(values), _fields(values).table("failed")
    return Report(
        job=job_of(values),
        ahead=found.whole("ahead"),
        attempts=tuple(map(_attempt, found.items("tried"))),
        failed=tuple(map(_failed, failed.items("first"))),
        failures=failed.whole("count"),
        config=_config(found["config"]),
        build=_content(found["build"]),
        tests=_content(found["contents"]),
        no_worker=found.text("no_worker"),
        workspace=found.text("workspace", 4096) if found["workspace"] is not None else "",
        untold=None if found["untold"] is None else _untold(found["untold"]),
    )


def _untold(values: Any) -> Untold:
    found = _fields(values)
    return Untold(found.whole("tries"), found.number("seconds"), found.text("trouble"))


def listing_of(values: Any) -> Listing:
    """A list of jobs."""
    found = _fields(values)
    jobs = tuple(map(job_of, found.items("jobs")))
    return Listing(jobs, found.counts("counts", frozenset(STATES)), found.text("no_worker"))


@dataclass(frozen=True)
class News:
    """Jobs whose state is another one than was seen, and UUIDs of those that are not there."""

    jobs: tuple[JobSummary, ...] = ()
    gone: tuple[str, ...] = ()
    no_worker: str = ""


def news_of(values: Any) -> News:
    """What a wait for news is answered with."""
    found = _fields(values)
    jobs = tuple(map(job_of, found.items("jobs")))
    return News(jobs, found.texts("gone"), found.text("no_worker"))


def facts_of(values: Any) -> dict[str, Any]:
    """What a host says of itself in answer to hello, to be shown."""
    found = _fields(values)["host"]
    if not isinstance(found, dict) or len(found) > 100:
        return {}
    return {to_single_line(str(name), 100): _shown(value) for name, value in found.items()}


def limits_of(value: Any) -> dict[str, int]:
    """Bounds by name."""
    found = _fields(value)
    return {to_single_line(str(name), 100): found.whole(name) for name in found.names(100)}


@dataclass(frozen=True)
class LogFacts:
    """What a host says of a log beside its bytes."""

    mark: list[Any]
    attempt: int
    attempts: int
    #: This attempt writes no more.
    over: bool
    crc: int
    #: The job has ended.
    is_end: bool


def log_facts_of(value: Any) -> LogFacts:
    """What comes with a piece of a log."""
    found = _fields(value)
    mark = found.items("mark", 10)
    attempt, attempts, over = found.whole("attempt"), found.whole("attempts"), found.flag("over")
    ended = over and attempt >= attempts and bool(found.text("how"))
    return LogFacts(
        [_shown(each) for each in mark], attempt, attempts, over, found.whole("crc"), ended
    )
