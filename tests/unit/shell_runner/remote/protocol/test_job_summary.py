"""Tests of the summary of a job: a client reads what a host has written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shell_runner.remote.jobs.rows import AttemptRow, JobRow
from shell_runner.remote.jobs.states import AttemptPhase, EndReason, State
from shell_runner.remote.protocol.fields import InvalidField
from shell_runner.remote.protocol.job import Identity, JobConfig
from shell_runner.remote.protocol.job_summary import (
    JOB_STATES,
    PACKAGED_STATES,
    parse_summary,
    summarize,
)
from shell_runner.text import to_single_line
from tests.helpers import queue_factories

ID = "01234567-89ab-cdef-0123-456789abcdef"
ROW = JobRow(
    7, ID, "nightly", ("a", "b"), -1, "c" * 64, None, queue_factories.make_content(), JobConfig(),
    3, State.READY, EndReason.COMPLETED, "d" * 5000, True, "", 1.5, 2.5, "a" * 64, 9, None,
)  # fmt: skip
ATTEMPT = AttemptRow("x", 7, 1, AttemptPhase.ENDED, "", Identity(1, "2", "b"), 1.0, 2.0, None)


def sent() -> Any:
    summary = summarize(ROW, "no room", [ATTEMPT], {"passed": 2, "failed": 1, "error": 1})
    return json.loads(json.dumps(summary._asdict()))


def test_a_client_reads_what_a_host_has_made() -> None:
    summary = parse_summary(sent(), to_single_line)
    assert summary.labels == ("a", "b")
    assert (summary.state, summary.end_reason, summary.phase, summary.attempts) == (
        "ready", "completed", "ended", 1,
    )  # fmt: skip
    assert (summary.waiting_reason, summary.cancel_requested, summary.package_digest) == (
        "no room",
        True,
        "a" * 64,
    )
    assert (summary.is_done, summary.failed) == (True, 2)
    assert len(summary.detail) < 1010


def test_the_states_are_those_of_the_queue() -> None:
    assert tuple(str(state) for state in State) == JOB_STATES
    assert set(JOB_STATES) > PACKAGED_STATES


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", "x"), ("state", "gone"), ("package_digest", "A" * 64), ("package_digest", None),
        ("package_size", -1),
        ("test_count", True), ("priority", -(1 << 40)), ("submitted_at", float("nan")),
        ("outcomes", {"won": 1}), ("labels", "ab"), ("name", None), ("cancel_requested", 0),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(key: str, value: Any) -> None:
    with pytest.raises(InvalidField):
        parse_summary({**sent(), key: value}, to_single_line)
