"""The events of ``go test -json`` on stdout.

Interprets the events (``go doc test2json``).  This module must not know Go's sources.

A subtest's name holds its parents' names, joined by "/"; the part below the nearest test that is
running becomes the case's name, the rest its group below the package.  A parent is a case of its
own only if it failed and no subtest of it did, or if it was skipped; the same rule as for TAP.

A package that failed without a failing test (it did not build, TestMain exited) becomes an error
case with the package's name; so does a test that began and never ended.
"""

import re
from typing import Any, Dict, Optional

from ..protocol.model import ERROR, FAILED, PASSED, SKIPPED, Case, ParsedOutput
from .bounds import (
    MAX_CASES,
    MAX_MESSAGE_CHARS,
    MAX_PENDING_CHARS,
    MAX_PROPERTIES,
    Excerpt,
    parse_seconds,
    truncate,
)
from .lines import JsonEventReader, get_text

NAME = "gotest"

_OUTCOMES = {"pass": PASSED, "bench": PASSED, "fail": FAILED, "skip": SKIPPED}
_ACTIONS = {
    "start", "run", "pause", "cont", "output", "build-output", "build-fail", "attr", "artifacts",
    *_OUTCOMES,
}  # fmt: skip
#: Matches lines that go test itself prints around the output of a test.
_match_framework_line = re.compile(
    r"=== (?:RUN|PAUSE|CONT|NAME|ATTR)\b|\s*--- (?:PASS|FAIL|SKIP|BENCH):"
).match
_match_source_location = re.compile(r"\s*[^\s:]+\.go:[0-9]+:\s*(.*)", re.S).match
#: Levels of a name that are searched for a running parent.
_MAX_NAME_LEVELS = 32


class _Test:
    """A test that is running."""

    __slots__ = (
        "group", "has_failed_subtest", "has_subtests", "held_chars", "name", "output", "parent",
        "properties",
    )  # fmt: skip

    def __init__(self, name: str, group: str, parent: Optional["_Test"]) -> None:
        self.name = name
        self.group = group
        self.parent = parent
        self.output = Excerpt()
        self.held_chars = 0
        self.properties: Dict[str, str] = {}
        #: Whether a subtest ended, and whether one failed.
        self.has_subtests = False
        self.has_failed_subtest = False


class _Package:
    """A package whose tests are running."""

    __slots__ = ("has_failure", "held_chars", "output", "tests")

    def __init__(self) -> None:
        self.tests: Dict[str, _Test] = {}
        self.output = Excerpt()
        self.held_chars = 0
        self.has_failure = False


class Reader(JsonEventReader):
    """Reads one stream of go test events."""

    def __init__(self, forced: bool = False) -> None:
        super().__init__(forced)
        self._packages: Dict[str, _Package] = {}
        #: Compiler output by import path; failed builds, and whether a package reported each.
        self._build_outputs: Dict[str, Excerpt] = {}
        self._failed_builds: Dict[str, bool] = {}
        self._has_skipped_package = False
        self._has_ended_package = False
        self._running_count = 0
        self._held_chars = 0

    def close(self) -> Optional[ParsedOutput]:
        """Return the cases, or None if the stream is not from go test."""
        if not self._finish():
            return None
        for name in list(self._packages):
            self._add_problem("the package %s did not end" % truncate(name, 200))
            self._end_tests(self._packages.pop(name))
        self._report_builds()
        if not self._is_recognized:
            self._add_problem("no events of go test in the output")
        elif not (self._has_ended_package or self._failed_builds):
            self._add_problem("no package ended")
        skip = "no test files" if self._has_skipped_package and not self._collector.cases else None
        return ParsedOutput(
            NAME, self._collector.cases, self._problem or self._collector.problem, skip
        )

    def _handle_event(self, event: Dict[str, Any]) -> bool:
        action = get_text(event, "Action")
        if action not in _ACTIONS or not _get_package_or_path(event):
            return False
        if action.startswith("build-"):
            self._handle_build(action, event)
        elif get_text(event, "Package"):
            self._handle_package(action, event)
        return True

    # -- builds --------------------------------------------------------------------------

    def _handle_build(self, action: str, event: Dict[str, Any]) -> None:
        path = truncate(_get_package_or_path(event))
        if action == "build-fail":
            if len(self._failed_builds) < MAX_CASES:
                self._failed_builds.setdefault(path, False)
        elif len(self._build_outputs) < MAX_CASES:
            self._add_output(
                self._build_outputs.setdefault(path, Excerpt()), get_text(event, "Output")
            )

    def _report_builds(self) -> None:
        for path, is_reported in self._failed_builds.items():
            if not is_reported:
                self._collector.add(Case(path, ERROR, "build failed", self._build_output(path)))

    def _build_output(self, path: str) -> str:
        output = self._build_outputs.get(path)
        return output.text() if output is not None else ""

    # -- packages ------------------------------------------------------------------------

    def _handle_package(self, action: str, event: Dict[str, Any]) -> None:
        name = truncate(get_text(event, "Package"))
        package = self._packages.get(name)
        if package is None:
            if self._running_count >= MAX_CASES:
                self._add_problem("more than %d packages and tests at once" % MAX_CASES)
                return
            package = self._packages[name] = _Package()
            self._running_count += 1
        if get_text(event, "Test"):
            self._handle_test(package, name, action, event)
        elif action == "output":
            package.held_chars += self._add_output(package.output, _get_output(event))
        elif action in _OUTCOMES and action != "bench":
            del self._packages[name]
            self._end_package(name, package, _OUTCOMES[action], event)

    def _end_package(
        self, name: str, package: _Package, outcome: str, event: Dict[str, Any]
    ) -> None:
        self._has_ended_package = True
        self._running_count -= 1
        self._held_chars -= package.held_chars
        self._end_tests(package)
        self._has_skipped_package = self._has_skipped_package or outcome == SKIPPED
        build = truncate(get_text(event, "FailedBuild"))
        if build:
            self._failed_builds[build] = True
            self._collector.add(Case(name, ERROR, "build failed", self._build_output(build)))
        elif outcome == FAILED and not package.has_failure:
            duration = parse_seconds(event.get("Elapsed"))
            message = "the package failed without a failing test"
            self._collector.add(Case(name, ERROR, message, package.output.text(), duration))

    def _end_tests(self, package: _Package) -> None:
        """Report the tests that never ended because of a panic or an exit."""
        for test in package.tests.values():
            self._running_count -= 1
            self._held_chars -= test.held_chars
            package.has_failure = True
            self._collector.add(
                Case(test.name, ERROR, "the test did not end", test.output.text(), None, test.group)
            )

    # -- tests ---------------------------------------------------------------------------

    def _handle_test(
        self, package: _Package, package_name: str, action: str, event: Dict[str, Any]
    ) -> None:
        name = truncate(get_text(event, "Test"))
        test = package.tests.get(name)
        if test is None:
            if self._running_count >= MAX_CASES:
                self._add_problem("more than %d packages and tests at once" % MAX_CASES)
                return
            test = package.tests[name] = _start_test(package, package_name, name)
            self._running_count += 1
        if action == "output":
            test.held_chars += self._add_output(test.output, _get_output(event))
        elif action == "attr" and len(test.properties) < MAX_PROPERTIES:
            test.properties[truncate(get_text(event, "Key"), 256)] = truncate(
                get_text(event, "Value")
            )
        elif action in _OUTCOMES:
            del package.tests[name]
            self._end_test(package, test, _OUTCOMES[action], event)

    def _end_test(
        self, package: _Package, test: _Test, outcome: str, event: Dict[str, Any]
    ) -> None:
        self._running_count -= 1
        self._held_chars -= test.held_chars
        has_failed = outcome == FAILED
        package.has_failure = package.has_failure or has_failed
        if test.parent is not None:
            test.parent.has_subtests = True
            test.parent.has_failed_subtest = test.parent.has_failed_subtest or has_failed
        if test.has_subtests and (outcome == PASSED or (has_failed and test.has_failed_subtest)):
            return
        self._collector.add(_make_case(test, outcome, parse_seconds(event.get("Elapsed"))))

    def _add_output(self, excerpt: Excerpt, text: str) -> int:
        if not text or self._held_chars > MAX_PENDING_CHARS:
            return 0
        kept = excerpt.add(text)
        self._held_chars += kept
        return kept


def _get_package_or_path(event: Dict[str, Any]) -> str:
    return get_text(event, "Package") or get_text(event, "ImportPath")


def _get_output(event: Dict[str, Any]) -> str:
    """Return the event's output, or an empty text for a line of go test itself."""
    output = get_text(event, "Output")
    return "" if _match_framework_line(output) else output


def _start_test(package: _Package, package_name: str, name: str) -> _Test:
    """Return a new test, in the group of the nearest parent that is running."""
    parent_name = name
    for _ in range(_MAX_NAME_LEVELS):
        parent_name, slash, _rest = parent_name.rpartition("/")
        if not slash:
            break
        parent = package.tests.get(parent_name)
        if parent is not None:
            group = truncate("%s > %s" % (parent.group, parent.name))
            return _Test(name[len(parent_name) + 1 :] or name, group, parent)
    return _Test(name, package_name, None)


def _make_case(test: _Test, outcome: str, duration: Optional[float]) -> Case:
    details = test.output.text() if outcome != PASSED else ""
    message = ""
    if details.strip():
        line = details.lstrip("\n").split("\n", 1)[0]
        match = _match_source_location(line)
        message = truncate(match.group(1) if match else line.strip(), MAX_MESSAGE_CHARS)
    properties = tuple(test.properties.items())
    return Case(test.name, outcome, message, details, duration, test.group, properties)
