"""JUnit XML in files, as GoogleTest, Catch2, Surefire, pytest, Jest and CTest write it.

Owns what the dialects' elements and attributes mean.  Knows nothing of how the
file came to be there.

There is no standard; the common ground is ``testsuites > testsuite > testcase``.
The file is parsed as a stream by expat with handlers of our own: the cost of a
case is a few calls, and nothing is kept of it but the case.

The file is a program's, so it is not trusted: a DOCTYPE is refused (with it go
entity bombs and external entities), depth, size and the length of one tag are
bounded.  Of a file that breaks off, the cases before the break are kept, and the
break is a problem.
"""

import os
import stat
from typing import BinaryIO, Dict, List, Optional, Tuple
from xml.parsers import expat

from ..protocol.model import ERROR, FAILED, PASSED, SKIPPED, XFAILED, Case, Parsed
from .bounds import (
    MAX_DETAILS,
    MAX_MESSAGE,
    MAX_NAME,
    MAX_PROPERTIES,
    Collector,
    Excerpt,
    clip,
    new_case,
    seconds,
)

NAME = "junit"
PATTERNS = ("*.xml",)

MAX_FILE = 256 * 1024 * 1024
MAX_DEPTH = 100
#: A tag, an attribute or a comment that is longer is refused: expat holds it whole.
MAX_TOKEN = 8 * 1024 * 1024
_CHUNK = 256 * 1024

_ROOTS = ("testsuite", "testsuites")
#: What an element below a testcase makes of it.
_VERDICTS = {"failure": FAILED, "error": ERROR, "skipped": SKIPPED, "skip": SKIPPED}
#: The worst of a case's elements counts.
_BAD = frozenset((FAILED, ERROR))
_RANK = {PASSED: 0, SKIPPED: 1, XFAILED: 2, FAILED: 3, ERROR: 4}
#: GoogleTest and CTest say in an attribute that a test was not run.
_NOT_RUN = {
    ("status", "notrun"), ("status", "disabled"), ("status", "skipped"),
    ("result", "suppressed"), ("result", "skipped"),
}  # fmt: skip
_FAILED_STATUS = {("status", "fail"), ("status", "failed"), ("result", "failed")}
#: Surefire's retries: of a test that passed in the end, and of one that did not.
_RERUNS = ("flakyFailure", "flakyError", "rerunFailure", "rerunError")
_OUTPUTS = ("system-out", "system-err")

_Attributes = Dict[str, str]


class _Stop(Exception):
    """Ends the parsing from inside a handler; the text is the problem."""


class _NotThisFormat(Exception):
    """The root is of another format."""


class _Suite:
    """An open testsuite or testsuites element."""

    __slots__ = ("bad", "claimed", "name")

    def __init__(self, name: str, claimed: int) -> None:
        self.name = name
        #: Failures and errors that the attributes count, and that we saw.
        self.claimed = claimed
        self.bad = 0


class _Open:
    """The open testcase."""

    __slots__ = (
        "bad", "depth", "duration", "group", "message", "name", "outcome", "output",
        "properties", "text",
    )  # fmt: skip

    def __init__(self, name: str, group: str, depth: int) -> None:
        self.name = name
        self.group = group
        self.depth = depth
        self.outcome = PASSED
        self.message = ""
        self.duration: Optional[float] = None
        self.text: Optional[Excerpt] = None
        self.output: Optional[Excerpt] = None
        self.properties: List[Tuple[str, str]] = []
        self.bad = 0

    def case(self) -> Case:
        """The case as far as it is known."""
        properties = tuple(self.properties) if self.properties else ()
        return Case(
            self.name, self.outcome, self.message, self._details(), self.duration, self.group,
            properties,
        )  # fmt: skip

    def _details(self) -> str:
        if self.text is None and self.output is None:
            return ""
        details = self.text.text().strip("\n") if self.text is not None else ""
        # What a test printed is of interest if it failed.
        if self.output and self.outcome in _BAD:
            details = (details + "\n" + self.output.text().strip("\n")).strip("\n")
        return details[: 2 * MAX_DETAILS]

    def add_property(self, key: str, value: str) -> None:
        if len(self.properties) < MAX_PROPERTIES:
            self.properties.append((clip(key, 256), clip(value, MAX_NAME)))


class _Handlers:
    """What expat calls; collects the cases of one file."""

    def __init__(self) -> None:
        self.kept = Collector()
        self.problem = ""
        self.rooted = False
        self._has_doctype = False
        self._depth = 0
        self._suites: List[_Suite] = []
        self._group = ""
        #: The depth of the open testcase, 0 if there is none; its attributes; and
        #: what its elements said, once it has one.
        self._case_depth = 0
        self._attributes: _Attributes = {}
        self._open: Optional[_Open] = None
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = self._entity

    def parse(self, file: BinaryIO) -> None:
        """Feed the file to expat, never letting it hold too much."""
        total = 0
        while True:
            chunk = file.read(_CHUNK)
            total += len(chunk)
            if total > MAX_FILE:
                raise _Stop("the file is larger than %d bytes" % MAX_FILE)
            self._parser.Parse(chunk, not chunk)
            if not chunk:
                return
            if total - self._parser.CurrentByteIndex > MAX_TOKEN:
                raise _Stop("a tag or comment is longer than %d bytes" % MAX_TOKEN)

    def interrupted(self) -> None:
        """Keep what is known of a testcase that the file breaks off in."""
        if self._open is not None and self._open.outcome in _BAD:
            self.kept.add(self._open.case())

    # -- called by expat -----------------------------------------------------------------

    def _doctype(self, *_rest: object) -> None:
        """Whatever it says: the root may have another name."""
        self._has_doctype = True

    def _entity(self, *_rest: object) -> None:
        raise _Stop("a DOCTYPE is refused: it declares an entity")

    def _start(self, tag: str, attributes: _Attributes) -> None:
        self._depth = depth = self._depth + 1
        if ":" in tag:  # whatever name space it is said to be in
            tag = tag.rpartition(":")[2]
        if self._case_depth:
            self._start_below(self._opened(), tag, attributes)
        elif tag == "testcase" and self.rooted:
            self._case_depth = depth
            self._attributes = attributes
        else:
            self._start_above(tag, attributes)

    def _end(self, _tag: str) -> None:
        depth = self._depth
        self._depth = depth - 1
        if self._open is not None:
            self._parser.CharacterDataHandler = None
            if self._case_depth == depth:
                self._end_case(self._open)
        elif self._case_depth:
            # Most cases have no elements and need no more than a Case.
            self._case_depth = 0
            self._add(self._bare_case())
        elif len(self._suites) == depth:
            self._end_suite()

    # -- elements ------------------------------------------------------------------------

    def _start_above(self, tag: str, attributes: _Attributes) -> None:
        if not self.rooted:
            if tag not in _ROOTS:
                raise _NotThisFormat()
            if self._has_doctype:
                raise _Stop("a DOCTYPE is refused")
            self.rooted = True
        if self._depth > MAX_DEPTH:
            raise _Stop("elements are nested deeper than %d" % MAX_DEPTH)
        if tag in _ROOTS and len(self._suites) == self._depth - 1:
            self._start_suite(tag, attributes)
        elif tag in ("failure", "error") and len(self._suites) == self._depth - 1:
            # Some write what broke a whole suite outside of any case.
            self._case_depth = self._depth
            self._open = _Open(self._group or "suite", "", self._depth)
            self._start_verdict(self._open, tag, attributes)

    def _start_suite(self, tag: str, attributes: _Attributes) -> None:
        name = clip(attributes.get("name", "")) if tag == "testsuite" else ""
        claimed = _count(attributes, "failures") + _count(attributes, "errors")
        self._suites.append(_Suite(name, claimed))
        self._regroup()

    def _regroup(self) -> None:
        self._group = clip(" > ".join(suite.name for suite in self._suites if suite.name))

    def _end_suite(self) -> None:
        suite = self._suites.pop()
        if suite.claimed > suite.bad and not self.problem:
            self.problem = "the suite %r counts %d failures and errors, its cases show %d" % (
                clip(suite.name, 80), suite.claimed, suite.bad,
            )  # fmt: skip
        if self._suites:
            self._suites[-1].bad += suite.bad
        self._regroup()

    def _opened(self) -> _Open:
        """The open testcase as something that its elements can change."""
        if self._open is None:
            case = self._bare_case()
            self._open = _Open(case.name, case.group, self._case_depth)
            self._open.outcome, self._open.duration = case.outcome, case.duration
        return self._open

    def _bare_case(self) -> Case:
        """The open testcase as its attributes alone have it."""
        attributes = self._attributes
        get = attributes.get
        name, group, time = get("name") or "testcase", get("classname") or self._group, get("time")
        if len(name) > MAX_NAME or len(group) > MAX_NAME:
            name, group = clip(name), clip(group)
        outcome = PASSED
        if "status" in attributes or "result" in attributes:
            outcome = _outcome_of(attributes)
        duration = seconds(time) if time else None
        return new_case(Case, (name, outcome, "", "", duration, group, ()))

    def _end_case(self, opened: _Open) -> None:
        if opened.bad and self._suites:
            # An attribute alone makes a case bad too; _add counts one for each.
            self._suites[-1].bad += opened.bad - 1
        self._open = None
        self._case_depth = 0
        self._add(opened.case())

    def _add(self, case: Case) -> None:
        if case.outcome in _BAD and self._suites:
            self._suites[-1].bad += 1
        if not self.kept.add(case):
            raise _Stop(self.kept.problem)

    def _start_below(self, case: _Open, tag: str, attributes: _Attributes) -> None:
        if self._depth > MAX_DEPTH:
            raise _Stop("elements are nested deeper than %d" % MAX_DEPTH)
        direct = self._depth == case.depth + 1
        if tag in _VERDICTS and direct:
            self._start_verdict(case, tag, attributes)
        elif tag in _RERUNS and direct:
            case.add_property(tag, attributes.get("message") or attributes.get("type") or "")
        elif tag in _OUTPUTS and direct:
            case.output = case.output or Excerpt()
            self._listen(case.output)
        elif tag == "property":
            case.add_property(attributes.get("name", ""), attributes.get("value", ""))

    def _start_verdict(self, case: _Open, tag: str, attributes: _Attributes) -> None:
        outcome = _VERDICTS[tag]
        if attributes.get("type") == "pytest.xfail":
            outcome = XFAILED
        case.bad += outcome in _BAD
        message = attributes.get("message") or ""
        if _RANK[outcome] > _RANK[case.outcome] or not case.message:
            case.message = clip(message, MAX_MESSAGE) or case.message
        if _RANK[outcome] > _RANK[case.outcome]:
            case.outcome = outcome
        case.text = case.text or Excerpt()
        if case.text:
            case.text.add("\n")
        self._listen(case.text)

    def _listen(self, excerpt: Excerpt) -> None:
        # Only while an element is open whose text counts: a call for each piece of
        # white space between elements would cost as much as the elements.
        self._parser.CharacterDataHandler = excerpt.add


def _outcome_of(attributes: _Attributes) -> str:
    said = [(key, attributes.get(key, "").lower()) for key in ("status", "result")]
    if any(pair in _NOT_RUN for pair in said):
        return SKIPPED
    return FAILED if any(pair in _FAILED_STATUS for pair in said) else PASSED


def _count(attributes: _Attributes, key: str) -> int:
    text = attributes.get(key, "")
    return int(text) if text.isdigit() and text.isascii() and len(text) < 10 else 0


def read_file(path: str) -> Optional[Parsed]:
    """The cases of the file, or None if its root is not that of a JUnit file."""
    try:
        # A named pipe must not be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        return Parsed(NAME, [], "cannot be read: %s" % error)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > MAX_FILE:
            return Parsed(NAME, [], "the file is larger than %d bytes" % MAX_FILE)
        return _read(file)


def _read(file: BinaryIO) -> Optional[Parsed]:
    handlers = _Handlers()
    try:
        handlers.parse(file)
    except _NotThisFormat:
        return None
    except _Stop as stop:
        handlers.problem = str(stop)
    except expat.ExpatError as error:
        handlers.problem = "not well-formed XML: %s" % error
        handlers.interrupted()
    except (ValueError, LookupError) as error:
        handlers.problem = "the encoding is not supported: %s" % clip(str(error), 200)
    except OSError as error:
        handlers.problem = "cannot be read: %s" % error
    return Parsed(NAME, handlers.kept.cases, handlers.problem)
