"""Fuzz the parsers of a host's responses about its jobs: an odd value is an InvalidField."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shell_runner.jobs import responses
from shell_runner.jobs.responses import JobReport
from shell_runner.remote.protocol.fields import InvalidField
from shell_runner.remote.protocol.job import JobConfig
from shell_runner.remote.protocol.model import Case, Execution, ParsedOutput
from shell_runner.remote.protocol.model import Test as Program
from tests.helpers import fuzzing, job_responses
from tests.helpers.job_responses import ID
from tests.helpers.json_mutation import change_json

JOB: dict[str, Any] = {**job_responses.JOB, "outcomes": {"failed": 1}}
FAILURE = Execution(0, exit_status=1, parsed=ParsedOutput("tap", [Case("a", "failed")]))
ATTEMPT = {"id": ID, "number": 1, "phase": "ended", "detail": "", "started_at": 1, "ended_at": 2}
REPORT: dict[str, Any] = {
    **JOB, "jobs_ahead": 0, "attempt_reports": [ATTEMPT],
    "failed": {"count": 1, "first": [["t", "failed", Program(0, "t"), FAILURE]]},
    "config": JobConfig()._asdict(), "build": None, "contents": ["tree", "a" * 64, 3, "t"],
    "worker_error": "", "workspace": None,
    "pending_notification": {"attempts": 1, "seconds": 2.0, "error": "no"},
}  # fmt: skip
LISTING = {"jobs": [JOB], "counts": {"ready": 1}, "worker_error": ""}
CHANGES = {"jobs": [JOB], "gone": [ID], "worker_error": ""}
LOG = {
    "mark": ["running", 1, "testing"], "end_reason": "", "attempt": 1, "attempts": 1,
    "is_attempt_over": False, "crc": 0,
}  # fmt: skip
FACTS = {"host": {"name": "h", "cores": 2, "labels": ["x"]}}
PARSERS = [
    (responses.parse_report, REPORT), (responses.parse_listing, LISTING),
    (responses.parse_changes, CHANGES), (responses.parse_log_facts, LOG),
    (responses.parse_facts, FACTS), (responses.parse_limits, {"jobs": 5}),
]  # fmt: skip


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def list_texts(value: Any) -> list[str]:
    """Return all texts of a parsed value that a command may show."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *list_texts(item))]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in list_texts(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [
            text for name in value.__dataclass_fields__ for text in list_texts(getattr(value, name))
        ]
    return []


@pytest.mark.parametrize(("parse", "value"), PARSERS)
def test_the_responses_that_are_changed_are_valid(parse: Any, value: Any) -> None:
    parse(as_json(value))


@pytest.mark.parametrize("outcome", [[], {}, None, 5, "odd", [["failed"]]])
def test_an_odd_outcome_of_a_failed_test_is_an_invalid_field(outcome: Any) -> None:
    report = as_json(REPORT)
    report["failed"]["first"][0][1] = outcome
    with pytest.raises(InvalidField, match="a failed test"):
        responses.parse_report(report)


def test_odd_values_are_invalid_fields() -> None:
    values = [(parse, as_json(value)) for parse, value in PARSERS]
    for rng in fuzzing.iterate_seeds():
        parse, value = rng.choice(values)
        parsed, refusal = None, ""
        try:
            parsed = parse(change_json(rng, value))
        except InvalidField as error:
            refusal = str(error)
        assert len(refusal) < 1000
        if isinstance(parsed, JobReport):
            texts = list_texts(parsed)
            assert all(text.isprintable() for text in texts), texts
