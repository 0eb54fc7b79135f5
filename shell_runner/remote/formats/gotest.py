"""The events of ``go test -json`` on stdout.

Owns what the events mean (``go doc test2json``).  Knows nothing of Go's sources.

A subtest's name holds its parents', joined by "/"; the part below the nearest test
that is running becomes the case's name, the rest its group below the package.  A
parent is a case of its own only if it failed and none below it did, or if it was
skipped: the rule that TAP's subtests follow too.

A package that failed without a failing test (it did not build, TestMain exited)
is an error case of the package's name; so is a test that began and never ended.
"""

import re
from typing import Any, Dict, Optional

from ..protocol.model import ERROR, FAILED, PASSED, SKIPPED, Case, Parsed
from .bounds import MAX_CASES, MAX_HELD, MAX_MESSAGE, MAX_PROPERTIES, Excerpt, clip, seconds
from .lines import EventReader, text_of

NAME = "gotest"

_OUTCOMES = {"pass": PASSED, "bench": PASSED, "fail": FAILED, "skip": SKIPPED}
_ACTIONS = {
    "start", "run", "pause", "cont", "output", "build-output", "build-fail", "attr", "artifacts",
    *_OUTCOMES,
}  # fmt: skip
#: Lines that go test itself prints around a test's own.
_FRAME = re.compile(r"=== (?:RUN|PAUSE|CONT|NAME|ATTR)\b|\s*--- (?:PASS|FAIL|SKIP|BENCH):").match
_PLACE = re.compile(r"\s*[^\s:]+\.go:[0-9]+:\s*(.*)", re.S).match
#: So many slashes of a name are looked at for a parent.
_MAX_LEVELS = 32


class _Test:
    """A test that has begun and not ended."""

    __slots__ = ("bad", "group", "held", "name", "output", "parent", "parents", "properties")

    def __init__(self, name: str, group: str, parent: Optional["_Test"]) -> None:
        self.name = name
        self.group = group
        self.parent = parent
        self.output = Excerpt()
        self.held = 0
        self.properties: Dict[str, str] = {}
        #: Whether a test below it became a case, and whether one was bad.
        self.parents = False
        self.bad = False


class _Package:
    """A package whose tests run."""

    __slots__ = ("bad", "held", "output", "tests")

    def __init__(self) -> None:
        self.tests: Dict[str, _Test] = {}
        self.output = Excerpt()
        self.held = 0
        self.bad = False


class Reader(EventReader):
    """Reads one stream of events."""

    def __init__(self, forced: bool = False) -> None:
        super().__init__(forced)
        self._packages: Dict[str, _Package] = {}
        #: What the compiler said, by import path; and which of those failed.
        self._builds: Dict[str, Excerpt] = {}
        self._broken: Dict[str, bool] = {}
        self._skipped = False
        self._ended = False
        self._open = 0
        self._held = 0

    def close(self) -> Optional[Parsed]:
        """The cases, or None if this is not of go test."""
        if not self._end():
            return None
        for name in list(self._packages):
            self._trouble("the package %s did not end" % clip(name, 200))
            self._end_tests(self._packages.pop(name))
        self._report_builds()
        if not self._claimed:
            self._trouble("no events of go test in the output")
        elif not (self._ended or self._broken):
            self._trouble("no package ended")
        skip = "no test files" if self._skipped and not self._kept.cases else None
        return Parsed(NAME, self._kept.cases, self._problem or self._kept.problem, skip)

    def _take(self, event: Dict[str, Any]) -> bool:
        action = text_of(event, "Action")
        if action not in _ACTIONS or not _subject(event):
            return False
        if action.startswith("build-"):
            self._take_build(action, event)
        elif text_of(event, "Package"):
            self._take_package(action, event)
        return True

    # -- builds --------------------------------------------------------------------------

    def _take_build(self, action: str, event: Dict[str, Any]) -> None:
        path = clip(_subject(event))
        if action == "build-fail":
            if len(self._broken) < MAX_CASES:
                self._broken.setdefault(path, False)
        elif len(self._builds) < MAX_CASES:
            self._hold(self._builds.setdefault(path, Excerpt()), text_of(event, "Output"))

    def _report_builds(self) -> None:
        for path, told in self._broken.items():
            if not told:
                self._kept.add(Case(path, ERROR, "build failed", self._build_output(path)))

    def _build_output(self, path: str) -> str:
        output = self._builds.get(path)
        return output.text() if output is not None else ""

    # -- packages ------------------------------------------------------------------------

    def _take_package(self, action: str, event: Dict[str, Any]) -> None:
        name = clip(text_of(event, "Package"))
        package = self._packages.get(name)
        if package is None:
            if self._open >= MAX_CASES:
                self._trouble("more than %d packages and tests at once" % MAX_CASES)
                return
            package = self._packages[name] = _Package()
            self._open += 1
        if text_of(event, "Test"):
            self._take_test(package, name, action, event)
        elif action == "output":
            package.held += self._hold(package.output, _unframed(text_of(event, "Output")))
        elif action in _OUTCOMES and action != "bench":
            del self._packages[name]
            self._end_package(name, package, _OUTCOMES[action], event)

    def _end_package(
        self, name: str, package: _Package, outcome: str, event: Dict[str, Any]
    ) -> None:
        self._ended = True
        self._open -= 1
        self._held -= package.held
        self._end_tests(package)
        self._skipped = self._skipped or outcome == SKIPPED
        build = clip(text_of(event, "FailedBuild"))
        if build:
            self._broken[build] = True
            self._kept.add(Case(name, ERROR, "build failed", self._build_output(build)))
        elif outcome == FAILED and not package.bad:
            duration = seconds(event.get("Elapsed"))
            why = "the package failed without a failing test"
            self._kept.add(Case(name, ERROR, why, package.output.text(), duration))

    def _end_tests(self, package: _Package) -> None:
        """Tests that never ended: a panic or an exit took them along."""
        for test in package.tests.values():
            self._open -= 1
            self._held -= test.held
            package.bad = True
            self._kept.add(
                Case(test.name, ERROR, "the test did not end", test.output.text(), None, test.group)
            )

    # -- tests ---------------------------------------------------------------------------

    def _take_test(
        self, package: _Package, package_name: str, action: str, event: Dict[str, Any]
    ) -> None:
        name = clip(text_of(event, "Test"))
        test = package.tests.get(name)
        if test is None:
            if self._open >= MAX_CASES:
                self._trouble("more than %d packages and tests at once" % MAX_CASES)
                return
            test = package.tests[name] = _begun(package, package_name, name)
            self._open += 1
        if action == "output":
            test.held += self._hold(test.output, _unframed(text_of(event, "Output")))
        elif action == "attr" and len(test.properties) < MAX_PROPERTIES:
            test.properties[clip(text_of(event, "Key"), 256)] = clip(text_of(event, "Value"))
        elif action in _OUTCOMES:
            del package.tests[name]
            self._end_test(package, test, _OUTCOMES[action], event)

    def _end_test(
        self, package: _Package, test: _Test, outcome: str, event: Dict[str, Any]
    ) -> None:
        self._open -= 1
        self._held -= test.held
        bad = outcome == FAILED
        package.bad = package.bad or bad
        if test.parent is not None:
            test.parent.parents = True
            test.parent.bad = test.parent.bad or bad
        if test.parents and (outcome == PASSED or (bad and test.bad)):
            return
        self._kept.add(_case(test, outcome, seconds(event.get("Elapsed"))))

    def _hold(self, excerpt: Excerpt, text: str) -> int:
        if not text or self._held > MAX_HELD:
            return 0
        kept = excerpt.add(text)
        self._held += kept
        return kept


def _subject(event: Dict[str, Any]) -> str:
    return text_of(event, "Package") or text_of(event, "ImportPath")


def _unframed(output: str) -> str:
    return "" if _FRAME(output) else output


def _begun(package: _Package, package_name: str, name: str) -> _Test:
    """A new test, in the group of the nearest test above it that is running."""
    above = name
    for _ in range(_MAX_LEVELS):
        above, slash, _rest = above.rpartition("/")
        if not slash:
            break
        parent = package.tests.get(above)
        if parent is not None:
            group = clip("%s > %s" % (parent.group, parent.name))
            return _Test(name[len(above) + 1 :] or name, group, parent)
    return _Test(name, package_name, None)


def _case(test: _Test, outcome: str, duration: Optional[float]) -> Case:
    details = test.output.text() if outcome != PASSED else ""
    message = ""
    if details.strip():
        line = details.lstrip("\n").split("\n", 1)[0]
        placed = _PLACE(line)
        message = clip(placed.group(1) if placed else line.strip(), MAX_MESSAGE)
    properties = tuple(test.properties.items())
    return Case(test.name, outcome, message, details, duration, test.group, properties)
