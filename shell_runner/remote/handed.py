"""What a client says of a job, checked.

Pure: makes values of JSON.  Must not know the queue, or what is on the disk.
"""

import difflib
import fnmatch
from typing import Any, Dict, List, Sequence

from .job import ARCHIVE, TREE, BadJob, Content, JobTest, NewJob, config_from, is_uuid
from .model import Test
from .store import is_digest

#: Characters of a name or a label; labels of a job.
_LONG_NAME, _LABELS = 200, 50
#: No priority is beyond.
_PRIORITY = 1_000_000


class NoSuchTest(ValueError):
    """A name or pattern means no test of a job."""


def new_job(values: Dict[str, Any]) -> NewJob:
    """A checked NewJob of JSON values; BadJob, KeyError, TypeError or ValueError if it is none."""
    cases = []
    for nodeid, test, retries, unmet, properties in values["cases"]:
        pairs = tuple((name, value) for name, value in properties)
        cases.append(JobTest(nodeid, _test(test), retries, unmet, pairs))
    build = values["build"]
    return checked(
        NewJob(
            id=values["id"],
            tests=_content(values["tests"]),
            build=None if build is None else _content(build),
            config=config_from(values["config"]),
            cases=tuple(cases),
            name=values["name"],
            labels=tuple(values["labels"]),
            priority=values["priority"],
        )
    )


def checked(job: NewJob) -> NewJob:
    """The job, if it can be one; else BadJob."""
    if not is_uuid(job.id):
        raise BadJob("id: not a UUID: %r" % (job.id,))
    for text in (job.name, *job.labels):
        if not isinstance(text, str) or len(text) > _LONG_NAME:
            raise BadJob("names and labels are texts of at most %d characters" % _LONG_NAME)
    if len(job.labels) > _LABELS:
        raise BadJob("labels: more than %d" % _LABELS)
    if type(job.priority) is not int or abs(job.priority) > _PRIORITY:
        raise BadJob("priority: a whole number, not %r" % (job.priority,))
    if not job.cases:
        raise BadJob("a job has one test at least")
    for number, case in enumerate(job.cases):
        if case.test.id != number:
            raise BadJob("test %d has the number %r" % (number, case.test.id))
    return job


def _content(row: Sequence[Any]) -> Content:
    content = Content(*row)
    if content.kind not in (TREE, ARCHIVE) or not is_digest(content.digest):
        raise BadJob("contents that cannot be: %r" % (content,))
    if type(content.size) is not int or content.size < 0 or not isinstance(content.name, str):
        raise BadJob("contents that cannot be: %r" % (content,))
    return content


def _test(row: Sequence[Any]) -> Test:
    """As ``serve`` takes it, with its lists as the tuples that they are."""
    return Test(*[_frozen(value) for value in row])


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def chosen(cases: Sequence[JobTest], names: Sequence[str]) -> List[int]:
    """The tests that the names or patterns mean; each must mean one at least."""
    found: List[int] = []
    for name in names:
        here = [n for n, case in enumerate(cases) if name in (case.nodeid, case.test.path)]
        here = here or [n for n, case in enumerate(cases) if fnmatch.fnmatchcase(case.nodeid, name)]
        if not here:
            close = difflib.get_close_matches(name, [case.nodeid for case in cases], 1)
            hint = "; did you mean %r?" % close[0] if close else ""
            raise NoSuchTest("the job has no test %r%s" % (name, hint))
        found += here
    return found
