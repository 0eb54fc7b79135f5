"""What a client says of a job, checked.

Pure: makes values of JSON.  Must not know the queue, or what is on the disk.
"""

import difflib
import fnmatch
import json
from typing import Any, Dict, List, Sequence

from ..files.manifest import is_digest
from ..jobs.package_format import fits
from ..protocol.fields import (
    FLAG,
    INTEGER,
    NUMBER,
    TEXT,
    Check,
    InvalidField,
    check_fields,
    freeze,
    list_of,
    optional,
    pairs_of,
)
from ..protocol.job import (
    ARCHIVE,
    MAX_LABELS,
    MAX_NAME_CHARS,
    MAX_PRIORITY,
    TREE,
    BadJob,
    Content,
    JobTest,
    NewJob,
    config_from,
    is_uuid,
)
from ..protocol.model import Test


class NoSuchTest(ValueError):
    """A name or pattern means no test of a job."""


def new_job(values: Dict[str, Any]) -> NewJob:
    """A checked NewJob of JSON values; BadJob, KeyError, TypeError or ValueError if it is none."""
    cases = []
    for nodeid, test, retries, unmet, properties in values["cases"]:
        case = JobTest(nodeid, _test(test), retries, unmet, freeze(properties))
        _check(case.nodeid, case, _CASE)
        cases.append(case)
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
        if not isinstance(text, str) or len(text) > MAX_NAME_CHARS:
            raise BadJob("names and labels are texts of at most %d characters" % MAX_NAME_CHARS)
    if len(job.labels) > MAX_LABELS:
        raise BadJob("labels: more than %d" % MAX_LABELS)
    if type(job.priority) is not int or abs(job.priority) > MAX_PRIORITY:
        raise BadJob("priority: a whole number, not %r" % (job.priority,))
    if not job.cases:
        raise BadJob("a job has one test at least")
    for number, case in enumerate(job.cases):
        if case.test.id != number:
            raise BadJob("test %d has the number %r" % (number, case.test.id))
    # The manifest of a package has all of it, beside the names of its members.
    if not fits(json.dumps([job.config, job.cases], separators=(",", ":")), share=2):
        words = "what is said of its %d tests is too much for one job: hand in several"
        raise BadJob(words % len(job.cases))
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
    test = Test(*[freeze(value) for value in row])
    _check(test.path, test, _TEST)
    return test


def _check(who: object, value: Any, checks: Dict[str, Check]) -> None:
    """Refuse what a slot or a package could not bear later, while the client listens."""
    try:
        check_fields(value._asdict(), checks)
    except InvalidField as error:
        raise BadJob("test %r: %s" % (who, error)) from None


#: What the fields of a Test, and of a JobTest, may be.
_TEST: Dict[str, Check] = {
    "id": INTEGER, "path": TEXT, "timeout": NUMBER, "argv": list_of(TEXT), "cwd": TEXT,
    "home": TEXT, "env": pairs_of(TEXT), "pass_env": list_of(TEXT),
    "estimate": optional(NUMBER), "attempt": INTEGER, "format": TEXT, "leftovers": TEXT,
    "limits": pairs_of(INTEGER), "isolation": TEXT, "locks": list_of(TEXT), "serial": FLAG,
}  # fmt: skip
_CASE: Dict[str, Check] = {
    "nodeid": TEXT, "retries": optional(INTEGER), "unmet": TEXT, "properties": pairs_of(TEXT),
}  # fmt: skip


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
