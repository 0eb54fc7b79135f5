"""What a client says of a job, checked.

Pure: makes values of JSON.  Must not know the queue, or what is on the disk.
"""

import difflib
import fnmatch
import json
from typing import Any, Callable, Dict, List, Sequence

from .job import ARCHIVE, TREE, BadJob, Content, JobTest, NewJob, config_from, is_text, is_uuid
from .manifest import is_digest
from .model import Test
from .package_format import fits

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
        case = JobTest(nodeid, _test(test), retries, unmet, _frozen(properties))
        _check(case.nodeid, case, _OF_CASES)
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
    test = Test(*[_frozen(value) for value in row])
    _check(test.path, test, _OF_TESTS)
    return test


def _check(who: object, found: Any, kinds: Dict[str, Callable[[Any], bool]]) -> None:
    """What a slot or a package could not bear later ends here, while somebody listens."""
    for name, is_good in kinds.items():
        value = getattr(found, name)
        if not is_good(value):
            raise BadJob("test %r: %s cannot be %r" % (who, name, value))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < _MOST


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and is_text(value[0])


def _are(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, tuple) and all(map(kind, values))


def _are_pairs(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return _are(lambda pair: _is_pair(pair) and kind(pair[1]))


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


#: What no number of a test comes near; also nothing that is none (NaN).
_MOST = 1e12
#: What the fields of a Test, and of a JobTest, may be.
_OF_TESTS: Dict[str, Callable[[Any], bool]] = {
    "id": _is_whole, "path": is_text, "timeout": _is_number, "argv": _are(is_text),
    "cwd": is_text, "home": is_text, "env": _are_pairs(is_text), "pass_env": _are(is_text),
    "estimate": lambda value: value is None or _is_number(value), "attempt": _is_whole,
    "format": is_text, "leftovers": is_text, "limits": _are_pairs(_is_whole),
    "isolation": is_text, "locks": _are(is_text), "serial": _is_flag,
}  # fmt: skip
_OF_CASES: Dict[str, Callable[[Any], bool]] = {
    "nodeid": is_text, "retries": lambda value: value is None or _is_whole(value),
    "unmet": is_text, "properties": _are_pairs(is_text),
}  # fmt: skip


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
