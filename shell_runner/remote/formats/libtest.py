"""The JSON of Rust's libtest on stdout: ``-Z unstable-options --format json``.

Interprets the events (library/test/src/formatters/json.rs of Rust).  This module must not know
cargo.

A stream holds one suite after the other (``cargo test`` runs many programs).  A suite announces
how many tests it will run and, at its end, how many had which outcome; both must agree with the
events between.
"""

from typing import Any, Dict, Optional, Tuple

from ..protocol.model import ERROR, FAILED, PASSED, SKIPPED, XFAILED, Case, ParsedOutput
from .bounds import (
    MAX_CASES,
    MAX_DETAILS_CHARS,
    MAX_MESSAGE_CHARS,
    Excerpt,
    parse_seconds,
    truncate,
)
from .lines import JsonEventReader, get_count, get_text

NAME = "libtest"

_TYPES = ("suite", "test", "bench")
#: "timeout" is not an outcome: the test is slow and still runs.
_OUTCOMES = {"ok": PASSED, "failed": FAILED, "ignored": SKIPPED, "allowed_failure": XFAILED}
_COUNTS = ("passed", "failed", "ignored", "measured", "allowed_fail")


class _Suite:
    """The suite that is running."""

    __slots__ = ("ended_tests", "failures", "planned_tests", "running")

    def __init__(self, planned_tests: Optional[int]) -> None:
        self.planned_tests = planned_tests
        self.ended_tests = 0
        self.failures = 0
        self.running: Dict[str, bool] = {}


class Reader(JsonEventReader):
    """Reads one stream of libtest events."""

    def __init__(self, forced: bool = False) -> None:
        super().__init__(forced)
        self._suite: Optional[_Suite] = None

    def close(self) -> Optional[ParsedOutput]:
        """Return the cases, or None if the stream is not from libtest."""
        if not self._finish():
            return None
        self._abort_suite()
        if not self._is_recognized:
            self._add_problem("no events of libtest in the output")
        return ParsedOutput(NAME, self._collector.cases, self._problem or self._collector.problem)

    def _handle_event(self, event: Dict[str, Any]) -> bool:
        kind = get_text(event, "type")
        if kind not in _TYPES or not (kind == "bench" or get_text(event, "event")):
            return False
        if kind == "suite":
            self._handle_suite(get_text(event, "event"), event)
        else:
            self._handle_test(kind, event)
        return True

    # -- suites --------------------------------------------------------------------------

    def _handle_suite(self, event_name: str, event: Dict[str, Any]) -> None:
        if event_name == "started":
            self._abort_suite()
            self._suite = _Suite(get_count(event, "test_count"))
        elif event_name in ("ok", "failed"):
            self._end_suite(event_name, event)

    def _end_suite(self, event_name: str, event: Dict[str, Any]) -> None:
        suite, self._suite = self._suite, None
        if suite is None:
            self._add_problem("a suite ended that had not started")
            return
        self._end_running(suite)
        counts = [get_count(event, key) for key in _COUNTS]
        total = sum(count for count in counts if count is not None)
        if suite.planned_tests is not None and suite.ended_tests != suite.planned_tests:
            self._add_problem("planned %d, saw %d" % (suite.planned_tests, suite.ended_tests))
        elif any(count is not None for count in counts) and total != suite.ended_tests:
            self._add_problem(
                "the suite counts %d tests, but named %d" % (total, suite.ended_tests)
            )
        if event_name == "failed" and not suite.failures:
            self._add_problem("the suite failed without a failing test")

    def _abort_suite(self) -> None:
        """Report the running suite, if there is one, as not ended."""
        suite, self._suite = self._suite, None
        if suite is not None:
            self._end_running(suite)
            self._add_problem("a suite did not end")

    def _end_running(self, suite: _Suite) -> None:
        for name in suite.running:
            self._collector.add(Case(name, ERROR, "the test did not end"))
            suite.failures += 1

    # -- tests ---------------------------------------------------------------------------

    def _handle_test(self, kind: str, event: Dict[str, Any]) -> None:
        suite = self._suite
        if suite is None:
            self._add_problem("a test outside of any suite")
            suite = self._suite = _Suite(None)
        name = truncate(get_text(event, "name")) or "test"
        event_name = get_text(event, "event")
        if kind == "bench" and not event_name:
            self._end_test(suite, name, PASSED, event)
        elif event_name in _OUTCOMES:
            self._end_test(suite, name, _OUTCOMES[event_name], event)
        elif event_name == "started" and len(suite.running) < MAX_CASES:
            suite.running[name] = True

    def _end_test(self, suite: _Suite, name: str, outcome: str, event: Dict[str, Any]) -> None:
        suite.running.pop(name, None)
        suite.ended_tests += 1
        suite.failures += outcome == FAILED
        details = Excerpt(MAX_DETAILS_CHARS)
        if outcome != PASSED:
            details.add(get_text(event, "stdout"))
        message = get_text(event, "message") or get_text(event, "reason")
        duration = parse_seconds(event.get("exec_time"))
        message = truncate(message, MAX_MESSAGE_CHARS)
        self._collector.add(
            Case(name, outcome, message, details.text(), duration, "", _benchmark_properties(event))
        )


def _benchmark_properties(event: Dict[str, Any]) -> Tuple[Tuple[str, str], ...]:
    """Return the results of a benchmark, in nanoseconds per iteration."""
    return tuple(
        (key, "%g" % event[key])
        for key in ("median", "deviation")
        if isinstance(event.get(key), float)
    )
