"""JUnit XML in files, as GoogleTest, Catch2, Surefire, pytest, Jest and CTest write it.

Interprets the elements and attributes of the dialects.  This module must not know how the file was
written.

There is no standard; the common ground is ``testsuites > testsuite > testcase``.  The file is
parsed as a stream by expat with handlers of our own: a case costs a few calls, and nothing is kept
in memory but the case.

A program wrote the file, so it is not trusted: a DOCTYPE is refused (which excludes entity bombs
and external entities); depth, size and the length of one tag are bounded.  If a file is cut short,
the cases before the end are kept, and the cut is a problem.
"""

import os
import stat
from typing import BinaryIO, Dict, List, Optional, Tuple
from xml.parsers import expat

from ..protocol.model import ERROR, FAILED, PASSED, SKIPPED, XFAILED, Case, ParsedOutput
from .bounds import (
    MAX_DETAILS_CHARS,
    MAX_MESSAGE_CHARS,
    MAX_NAME_CHARS,
    MAX_PROPERTIES,
    CaseCollector,
    Excerpt,
    new_case,
    parse_seconds,
    truncate,
)

NAME = "junit"
PATTERNS = ("*.xml",)

#: Bytes of a file.
MAX_FILE_BYTES = 256 * 1024 * 1024
#: Levels of nested elements.
MAX_DEPTH = 100
#: Bytes of a tag, an attribute or a comment, which expat holds in memory as a whole.
MAX_TOKEN_BYTES = 8 * 1024 * 1024
#: Bytes read at a time.
_CHUNK_SIZE = 256 * 1024

_ROOTS = ("testsuite", "testsuites")
#: Outcome of a testcase by the element in it.
_OUTCOME_BY_ELEMENT = {"failure": FAILED, "error": ERROR, "skipped": SKIPPED, "skip": SKIPPED}
_FAILING = frozenset((FAILED, ERROR))
#: The outcome with the highest number counts if a case has several elements.
_SEVERITY = {PASSED: 0, SKIPPED: 1, XFAILED: 2, FAILED: 3, ERROR: 4}
#: Attributes by which GoogleTest and CTest mark a test that was not run.
_NOT_RUN = {
    ("status", "notrun"), ("status", "disabled"), ("status", "skipped"),
    ("result", "suppressed"), ("result", "skipped"),
}  # fmt: skip
_FAILED_STATUS = {("status", "fail"), ("status", "failed"), ("result", "failed")}
#: Surefire's elements for retries of tests that passed, and of tests that failed, in the end.
_RERUNS = ("flakyFailure", "flakyError", "rerunFailure", "rerunError")
_OUTPUTS = ("system-out", "system-err")

_Attributes = Dict[str, str]


class _ParsingStopped(Exception):
    """A handler stops the parser; the message is the problem."""


class _UnknownRootElement(Exception):
    """The root element belongs to another format."""


class _Suite:
    """An open testsuite or testsuites element."""

    __slots__ = ("declared_failures", "failures", "name")

    def __init__(self, name: str, declared_failures: int) -> None:
        self.name = name
        #: Number of failures and errors by the attributes, and by the cases.
        self.declared_failures = declared_failures
        self.failures = 0


class _OpenCase:
    """The open testcase element, if it has child elements."""

    __slots__ = (
        "depth", "duration", "failures", "group", "message", "name", "outcome", "output",
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
        self.failures = 0

    def make_case(self) -> Case:
        """Return the case as read so far."""
        properties = tuple(self.properties) if self.properties else ()
        return Case(
            self.name, self.outcome, self.message, self._details(), self.duration, self.group,
            properties,
        )  # fmt: skip

    def _details(self) -> str:
        if self.text is None and self.output is None:
            return ""
        details = self.text.text().strip("\n") if self.text is not None else ""
        # The output of a test is of interest only if it failed.
        if self.output and self.outcome in _FAILING:
            details = (details + "\n" + self.output.text().strip("\n")).strip("\n")
        return details[: 2 * MAX_DETAILS_CHARS]

    def add_property(self, key: str, value: str) -> None:
        """Keep a property, unless the case has MAX_PROPERTIES already."""
        if len(self.properties) < MAX_PROPERTIES:
            self.properties.append((truncate(key, 256), truncate(value, MAX_NAME_CHARS)))


class _ExpatHandlers:
    """The handlers that expat calls; they collect the cases of one file."""

    def __init__(self) -> None:
        self.collector = CaseCollector()
        self.problem = ""
        self.has_root = False
        self._has_doctype = False
        self._depth = 0
        self._suites: List[_Suite] = []
        self._group = ""
        #: The depth of the open testcase, 0 if there is none; its attributes; and its contents
        #: once it has an element.
        self._case_depth = 0
        self._attributes: _Attributes = {}
        self._open: Optional[_OpenCase] = None
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._handle_start
        parser.EndElementHandler = self._handle_end
        parser.StartDoctypeDeclHandler = self._handle_doctype
        parser.EntityDeclHandler = self._handle_entity

    def parse(self, file: BinaryIO) -> None:
        """Parse the file; raises _ParsingStopped if it exceeds a limit."""
        total = 0
        while True:
            chunk = file.read(_CHUNK_SIZE)
            total += len(chunk)
            if total > MAX_FILE_BYTES:
                raise _ParsingStopped("the file is larger than %d bytes" % MAX_FILE_BYTES)
            self._parser.Parse(chunk, not chunk)
            if not chunk:
                return
            if total - self._parser.CurrentByteIndex > MAX_TOKEN_BYTES:
                raise _ParsingStopped("a tag or comment is longer than %d bytes" % MAX_TOKEN_BYTES)

    def keep_open_case(self) -> None:
        """Keep the open testcase of a file that was cut short, if it failed."""
        if self._open is not None and self._open.outcome in _FAILING:
            self.collector.add(self._open.make_case())

    # -- called by expat -----------------------------------------------------------------

    def _handle_doctype(self, *_rest: object) -> None:
        """Remember the DOCTYPE; it is refused only if the root element is that of a JUnit file."""
        self._has_doctype = True

    def _handle_entity(self, *_rest: object) -> None:
        raise _ParsingStopped("a DOCTYPE is refused: it declares an entity")

    def _handle_start(self, tag: str, attributes: _Attributes) -> None:
        self._depth = depth = self._depth + 1
        if ":" in tag:  # ignore the name space
            tag = tag.rpartition(":")[2]
        if self._case_depth:
            self._start_inside_case(self._get_open_case(), tag, attributes)
        elif tag == "testcase" and self.has_root:
            self._case_depth = depth
            self._attributes = attributes
        else:
            self._start_outside_case(tag, attributes)

    def _handle_end(self, _tag: str) -> None:
        depth = self._depth
        self._depth = depth - 1
        if self._open is not None:
            self._parser.CharacterDataHandler = None
            if self._case_depth == depth:
                self._end_case(self._open)
        elif self._case_depth:
            # Most cases have no elements and need no _OpenCase.
            self._case_depth = 0
            self._add_case(self._bare_case())
        elif len(self._suites) == depth:
            self._end_suite()

    # -- elements ------------------------------------------------------------------------

    def _start_outside_case(self, tag: str, attributes: _Attributes) -> None:
        if not self.has_root:
            if tag not in _ROOTS:
                raise _UnknownRootElement()
            if self._has_doctype:
                raise _ParsingStopped("a DOCTYPE is refused")
            self.has_root = True
        if self._depth > MAX_DEPTH:
            raise _ParsingStopped("elements are nested deeper than %d" % MAX_DEPTH)
        if tag in _ROOTS and len(self._suites) == self._depth - 1:
            self._start_suite(tag, attributes)
        elif tag in ("failure", "error") and len(self._suites) == self._depth - 1:
            # Some programs report the failure of a whole suite outside of any case.
            self._case_depth = self._depth
            self._open = _OpenCase(self._group or "suite", "", self._depth)
            self._start_outcome_element(self._open, tag, attributes)

    def _start_suite(self, tag: str, attributes: _Attributes) -> None:
        name = truncate(attributes.get("name", "")) if tag == "testsuite" else ""
        declared_failures = _parse_count(attributes, "failures") + _parse_count(
            attributes, "errors"
        )
        self._suites.append(_Suite(name, declared_failures))
        self._update_group()

    def _update_group(self) -> None:
        self._group = truncate(" > ".join(suite.name for suite in self._suites if suite.name))

    def _end_suite(self) -> None:
        suite = self._suites.pop()
        if suite.declared_failures > suite.failures and not self.problem:
            self.problem = "the suite %r counts %d failures and errors, its cases show %d" % (
                truncate(suite.name, 80), suite.declared_failures, suite.failures,
            )  # fmt: skip
        if self._suites:
            self._suites[-1].failures += suite.failures
        self._update_group()

    def _get_open_case(self) -> _OpenCase:
        """Return the open testcase as an object that its elements can change."""
        if self._open is None:
            case = self._bare_case()
            self._open = _OpenCase(case.name, case.group, self._case_depth)
            self._open.outcome, self._open.duration = case.outcome, case.duration
        return self._open

    def _bare_case(self) -> Case:
        """Return the open testcase as its attributes alone describe it."""
        attributes = self._attributes
        get = attributes.get
        name, group, time = get("name") or "testcase", get("classname") or self._group, get("time")
        if len(name) > MAX_NAME_CHARS or len(group) > MAX_NAME_CHARS:
            name, group = truncate(name), truncate(group)
        outcome = PASSED
        if "status" in attributes or "result" in attributes:
            outcome = _outcome_from_attributes(attributes)
        duration = parse_seconds(time) if time else None
        return new_case(Case, (name, outcome, "", "", duration, group, ()))

    def _end_case(self, open_case: _OpenCase) -> None:
        if open_case.failures and self._suites:
            # An attribute alone can make a case fail; _add_case counts one for each case.
            self._suites[-1].failures += open_case.failures - 1
        self._open = None
        self._case_depth = 0
        self._add_case(open_case.make_case())

    def _add_case(self, case: Case) -> None:
        if case.outcome in _FAILING and self._suites:
            self._suites[-1].failures += 1
        if not self.collector.add(case):
            raise _ParsingStopped(self.collector.problem)

    def _start_inside_case(self, case: _OpenCase, tag: str, attributes: _Attributes) -> None:
        if self._depth > MAX_DEPTH:
            raise _ParsingStopped("elements are nested deeper than %d" % MAX_DEPTH)
        direct = self._depth == case.depth + 1
        if tag in _OUTCOME_BY_ELEMENT and direct:
            self._start_outcome_element(case, tag, attributes)
        elif tag in _RERUNS and direct:
            case.add_property(tag, attributes.get("message") or attributes.get("type") or "")
        elif tag in _OUTPUTS and direct:
            case.output = case.output or Excerpt()
            self._collect_text(case.output)
        elif tag == "property":
            case.add_property(attributes.get("name", ""), attributes.get("value", ""))

    def _start_outcome_element(self, case: _OpenCase, tag: str, attributes: _Attributes) -> None:
        outcome = _OUTCOME_BY_ELEMENT[tag]
        if attributes.get("type") == "pytest.xfail":
            outcome = XFAILED
        case.failures += outcome in _FAILING
        message = attributes.get("message") or ""
        if _SEVERITY[outcome] > _SEVERITY[case.outcome] or not case.message:
            case.message = truncate(message, MAX_MESSAGE_CHARS) or case.message
        if _SEVERITY[outcome] > _SEVERITY[case.outcome]:
            case.outcome = outcome
        case.text = case.text or Excerpt()
        if case.text:
            case.text.add("\n")
        self._collect_text(case.text)

    def _collect_text(self, excerpt: Excerpt) -> None:
        # Set only while an element is open whose text is kept: a call for each piece of
        # white space between elements would cost as much as the elements.
        self._parser.CharacterDataHandler = excerpt.add


def _outcome_from_attributes(attributes: _Attributes) -> str:
    pairs = [(key, attributes.get(key, "").lower()) for key in ("status", "result")]
    if any(pair in _NOT_RUN for pair in pairs):
        return SKIPPED
    return FAILED if any(pair in _FAILED_STATUS for pair in pairs) else PASSED


def _parse_count(attributes: _Attributes, key: str) -> int:
    text = attributes.get(key, "")
    return int(text) if text.isdigit() and text.isascii() and len(text) < 10 else 0


def read_file(path: str) -> Optional[ParsedOutput]:
    """Return the cases of the file, or None if its root element is not that of a JUnit file."""
    try:
        # O_NONBLOCK: opening a named pipe must not block.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        return ParsedOutput(NAME, [], "cannot be read: %s" % error)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        if status.st_size > MAX_FILE_BYTES:
            return ParsedOutput(NAME, [], "the file is larger than %d bytes" % MAX_FILE_BYTES)
        return _parse_file(file)


def _parse_file(file: BinaryIO) -> Optional[ParsedOutput]:
    handlers = _ExpatHandlers()
    try:
        handlers.parse(file)
    except _UnknownRootElement:
        return None
    except _ParsingStopped as stop:
        handlers.problem = str(stop)
    except expat.ExpatError as error:
        handlers.problem = "not well-formed XML: %s" % error
        handlers.keep_open_case()
    except (ValueError, LookupError) as error:
        handlers.problem = "the encoding is not supported: %s" % truncate(str(error), 200)
    except OSError as error:
        handlers.problem = "cannot be read: %s" % error
    return ParsedOutput(NAME, handlers.collector.cases, handlers.problem)
