"""Tests that a package accounts for every test of its job."""

import json

import pytest

from shell_runner.remote.jobs.queue import EndReason, JobRow, State
from shell_runner.remote.jobs.result_package_content import _IN_LOG as IN_LOG
from shell_runner.remote.jobs.result_package_content import _fill_gaps, make_absent_execution
from shell_runner.remote.protocol import model
from shell_runner.remote.protocol.job import Content, JobConfig, JobTest, remove_secrets
from shell_runner.remote.protocol.model import Execution, Problem
from shell_runner.remote.protocol.verdict import judge

JOB = JobRow(
    1, "", "", (), 0, "", None, Content("tree", "", 0), JobConfig(), 4, State.PACKAGING,
    EndReason.GAVE_UP, "the reason", False, "", 0.0, None, "", 0, None,
)  # fmt: skip
TESTS = [JobTest(name, model.Test(number, name)) for number, name in enumerate("abcd")]


@pytest.mark.parametrize(
    "there",
    [
        [],
        [(0, 1)],
        [(3, 1)],
        [(1, 1), (1, 2)],
        [(0, 1), (2, 1), (2, 2)],
        [(n, 1) for n in range(4)],
    ],
)
def test_a_test_without_an_execution_gets_one_in_its_place(there: list[tuple[int, int]]) -> None:
    rows = [(number, count, "passed", "there") for number, count in there]
    found = list(_fill_gaps(JOB, TESTS, iter(rows)))
    keys = [row[:2] for row in found]
    assert keys == sorted(keys)
    assert {number for number, _ in keys} == {0, 1, 2, 3}
    assert [row for row in found if row[3] == "there"] == rows
    for number, count, outcome, text in found:
        if text != "there":
            execution = Execution(*json.loads(text))
            assert (execution.id, count, outcome) == (number, 1, "error")
            assert execution.detail == "the reason"


@pytest.mark.parametrize(
    ("end_reason", "problem", "message"),
    [
        (EndReason.INSTALL_FAILED, Problem.NOT_RUN, "not run: the install command failed: exit 3"),
        (EndReason.REFUSED, Problem.NOT_RUN, "not run: exit 3"),
        (EndReason.CANCELED, Problem.CANCELED, "canceled: with its job: exit 3" + IN_LOG),
        (
            EndReason.TIMED_OUT,
            Problem.CANCELED,
            "canceled: its job reached its time limit: exit 3" + IN_LOG,
        ),
        (EndReason.GAVE_UP, Problem.HOST_LOST, "host lost: exit 3"),
    ],
)
def test_each_end_reason_has_its_message(end_reason: EndReason, problem: str, message: str) -> None:
    execution = make_absent_execution(2, end_reason, "exit 3")
    result = judge(TESTS[2].test, execution)
    assert (execution.id, execution.problem) == (2, problem)
    assert (result.outcome, result.message) == ("error", message)
    assert result.infrastructure == (problem != Problem.NOT_RUN)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:word@host:8/hook/T0KEN?a=T0KEN#T0KEN",
        "http://T0KEN@host:8",
        "https://host:8?T0KEN",
    ],
)
def test_a_package_holds_no_secrets_of_its_job(url: str) -> None:
    config = JobConfig(environment=(("A", "T0KEN"),), notify=url, secret="T0KEN")
    shown = remove_secrets(config)
    assert "T0KEN" not in repr(shown)
    assert "word" not in repr(shown)
    assert shown.environment == (("A", "..."),)
    assert "host:8" in shown.notify
