"""Validation of a job that a client submits.

Pure: makes checked values of JSON values.  Must not know the queue or the disk.
"""

import difflib
import fnmatch
import json
from typing import Any, Dict, List, Sequence

from ..files.manifest import is_digest
from ..jobs.result_package_format import is_readable_size
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
    is_uuid,
    parse_config,
    parse_job_test,
)


class NoSuchTest(ValueError):
    """An error: a name or pattern matches no test of a job."""


def parse_new_job(values: Dict[str, Any]) -> NewJob:
    """Return the job of the JSON values of a submission.

    Raises BadJob, KeyError, TypeError or ValueError if they are invalid.
    """
    cases = tuple(map(parse_job_test, values["cases"]))
    build = values["build"]
    return check_job(
        NewJob(
            id=values["id"],
            tests=_parse_content(values["tests"]),
            build=None if build is None else _parse_content(build),
            config=parse_config(values["config"]),
            cases=cases,
            name=values["name"],
            labels=tuple(values["labels"]),
            priority=values["priority"],
        )
    )


def check_job(job: NewJob) -> NewJob:
    """Return ``job`` if it is valid; raise BadJob."""
    if not is_uuid(job.id):
        raise BadJob("id: not a UUID: %r" % (job.id,))
    for text in (job.name, *job.labels):
        if not isinstance(text, str) or len(text) > MAX_NAME_CHARS:
            raise BadJob("names and labels: strings of at most %d characters" % MAX_NAME_CHARS)
    if len(job.labels) > MAX_LABELS:
        raise BadJob("labels: at most %d" % MAX_LABELS)
    if type(job.priority) is not int or abs(job.priority) > MAX_PRIORITY:
        raise BadJob(
            "priority: an integer from -%d to %d, not %r"
            % (MAX_PRIORITY, MAX_PRIORITY, job.priority)
        )
    if not job.cases:
        raise BadJob("a job needs at least one test")
    for number, case in enumerate(job.cases):
        if case.test.id != number:
            raise BadJob("test %d: expected this number, not %r" % (number, case.test.id))
    # The manifest of a package contains all of it, and the names of the members.
    if not is_readable_size(json.dumps([job.config, job.cases], separators=(",", ":")), share=2):
        message = "the descriptions of its %d tests are too large for one job: submit several jobs"
        raise BadJob(message % len(job.cases))
    return job


def _parse_content(row: Sequence[Any]) -> Content:
    content = Content(*row)
    if content.kind not in (TREE, ARCHIVE) or not is_digest(content.digest):
        raise BadJob("invalid contents: %r" % (content,))
    if type(content.size) is not int or content.size < 0 or not isinstance(content.name, str):
        raise BadJob("invalid contents: %r" % (content,))
    return content


def find_tests(cases: Sequence[JobTest], names: Sequence[str]) -> List[int]:
    """Return the numbers of the tests that match the names or patterns.

    Raises NoSuchTest for a name or pattern that matches none.
    """
    numbers: List[int] = []
    for name in names:
        matches = [n for n, case in enumerate(cases) if name in (case.nodeid, case.test.path)]
        matches = matches or [
            n for n, case in enumerate(cases) if fnmatch.fnmatchcase(case.nodeid, name)
        ]
        if not matches:
            close = difflib.get_close_matches(name, [case.nodeid for case in cases], 1)
            hint = "; did you mean %r?" % close[0] if close else ""
            raise NoSuchTest("the job has no test %r%s" % (name, hint))
        numbers += matches
    return numbers
