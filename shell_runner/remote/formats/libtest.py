"""The JSON of Rust's libtest on stdout: ``-Z unstable-options --format json``.

Owns what the events mean (library/test/src/formatters/json.rs of Rust).  Knows
nothing of cargo.

A stream holds one suite after the other (``cargo test`` runs many programs).  A
suite tells how many tests it will run and, at its end, how many had which
outcome; both must agree with what stood between.
"""

from typing import Any, Dict, Optional, Tuple

from ..protocol.model import ERROR, FAILED, PASSED, SKIPPED, XFAILED, Case, Parsed
from .bounds import MAX_CASES, MAX_DETAILS, MAX_MESSAGE, Excerpt, clip, seconds
from .lines import EventReader, count_of, text_of

NAME = "libtest"

_TYPES = ("suite", "test", "bench")
#: "timeout" is no outcome: the test has run for long and still runs.
_OUTCOMES = {"ok": PASSED, "failed": FAILED, "ignored": SKIPPED, "allowed_failure": XFAILED}
_COUNTS = ("passed", "failed", "ignored", "measured", "allowed_fail")


class _Suite:
    """The suite that runs."""

    __slots__ = ("bad", "planned", "running", "seen")

    def __init__(self, planned: Optional[int]) -> None:
        self.planned = planned
        self.seen = 0
        self.bad = 0
        self.running: Dict[str, bool] = {}


class Reader(EventReader):
    """Reads one stream of events."""

    def __init__(self, forced: bool = False) -> None:
        super().__init__(forced)
        self._suite: Optional[_Suite] = None

    def close(self) -> Optional[Parsed]:
        """The cases, or None if this is not of libtest."""
        if not self._end():
            return None
        self._cut_off()
        if not self._claimed:
            self._trouble("no events of libtest in the output")
        return Parsed(NAME, self._kept.cases, self._problem or self._kept.problem)

    def _take(self, event: Dict[str, Any]) -> bool:
        kind = text_of(event, "type")
        if kind not in _TYPES or not (kind == "bench" or text_of(event, "event")):
            return False
        if kind == "suite":
            self._take_suite(text_of(event, "event"), event)
        else:
            self._take_test(kind, event)
        return True

    # -- suites --------------------------------------------------------------------------

    def _take_suite(self, what: str, event: Dict[str, Any]) -> None:
        if what == "started":
            self._cut_off()
            self._suite = _Suite(count_of(event, "test_count"))
        elif what in ("ok", "failed"):
            self._end_suite(what, event)

    def _end_suite(self, what: str, event: Dict[str, Any]) -> None:
        suite, self._suite = self._suite, None
        if suite is None:
            self._trouble("a suite ended that had not started")
            return
        self._end_running(suite)
        told = [count_of(event, key) for key in _COUNTS]
        total = sum(count for count in told if count is not None)
        if suite.planned is not None and suite.seen != suite.planned:
            self._trouble("planned %d, saw %d" % (suite.planned, suite.seen))
        elif any(count is not None for count in told) and total != suite.seen:
            self._trouble("the suite counts %d tests, but named %d" % (total, suite.seen))
        if what == "failed" and not suite.bad:
            self._trouble("the suite failed without a failing test")

    def _cut_off(self) -> None:
        """The stream ends, or another suite starts, before this one has ended."""
        suite, self._suite = self._suite, None
        if suite is not None:
            self._end_running(suite)
            self._trouble("a suite did not end")

    def _end_running(self, suite: _Suite) -> None:
        for name in suite.running:
            self._kept.add(Case(name, ERROR, "the test did not end"))
            suite.bad += 1

    # -- tests ---------------------------------------------------------------------------

    def _take_test(self, kind: str, event: Dict[str, Any]) -> None:
        suite = self._suite
        if suite is None:
            self._trouble("a test outside of any suite")
            suite = self._suite = _Suite(None)
        name = clip(text_of(event, "name")) or "test"
        what = text_of(event, "event")
        if kind == "bench" and not what:
            self._end_test(suite, name, PASSED, event)
        elif what in _OUTCOMES:
            self._end_test(suite, name, _OUTCOMES[what], event)
        elif what == "started" and len(suite.running) < MAX_CASES:
            suite.running[name] = True

    def _end_test(self, suite: _Suite, name: str, outcome: str, event: Dict[str, Any]) -> None:
        suite.running.pop(name, None)
        suite.seen += 1
        suite.bad += outcome == FAILED
        details = Excerpt(MAX_DETAILS)
        if outcome != PASSED:
            details.add(text_of(event, "stdout"))
        message = text_of(event, "message") or text_of(event, "reason")
        duration = seconds(event.get("exec_time"))
        message = clip(message, MAX_MESSAGE)
        self._kept.add(Case(name, outcome, message, details.text(), duration, "", _measured(event)))


def _measured(event: Dict[str, Any]) -> Tuple[Tuple[str, str], ...]:
    """What a benchmark found, in nanoseconds an iteration."""
    return tuple(
        (key, "%g" % event[key])
        for key in ("median", "deviation")
        if isinstance(event.get(key), float)
    )
