"""Tests of the validation of a new job: one that cannot be run or packed is refused at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from shell_runner.remote.protocol.job import TREE, BadJob, Content, JobConfig, JobTest, NewJob
from shell_runner.remote.protocol.model import Test as HostTest
from shell_runner.remote.sessions import job_validation

ID = "01234567-89ab-cdef-0123-456789abcdef"
FULL = HostTest(
    0, "a/t\udcff.sh", 5.0, ("sh",), env=(("A", "b"),), pass_env=("X*",), estimate=1,
    limits=(("NOFILE", 9),), locks=("l",), serial=True,
)  # fmt: skip


def values() -> Any:
    case = JobTest("a/t\udcff.sh", FULL, 2, "", (("p", "q"),))
    job = NewJob(ID, Content(TREE, "a" * 64, 3), cases=(case,))
    return json.loads(json.dumps({**job._asdict(), "config": JobConfig()._asdict()}))


def test_a_sound_job_is_taken_as_it_was_said() -> None:
    job = job_validation.parse_new_job(values())
    assert job.cases[0] == JobTest("a/t\udcff.sh", FULL, 2, "", (("p", "q"),))


def change_test(name: str, value: Any) -> Callable[[Any], None]:
    def change(job: Any) -> None:
        job["cases"][0][1][HostTest._fields.index(name)] = value

    return change


def change_case(name: str, value: Any) -> Callable[[Any], None]:
    def change(job: Any) -> None:
        job["cases"][0][JobTest._fields.index(name)] = value

    return change


def change_config(name: str, value: Any) -> Callable[[Any], None]:
    def change(job: Any) -> None:
        job["config"][name] = value

    return change


def test_more_tests_than_a_package_can_name_are_refused() -> None:
    job = values()
    nodeid, test, *rest = job["cases"][0]
    test[HostTest._fields.index("argv")] = ["," * 500_000]
    job["cases"] = [[nodeid, [number, *test[1:]], *rest] for number in range(5)]
    with pytest.raises(BadJob, match="of its 5 tests are too large for one job"):
        job_validation.parse_new_job(job)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # NaN cannot be written to a package, so the job would never end.
        (change_test("timeout", float("nan")), "timeout"),
        (change_test("timeout", -5), "timeout"),
        (change_test("timeout", True), "timeout"),
        (change_test("estimate", "x"), "estimate"),
        (change_test("estimate", float("inf")), "estimate"),
        (change_test("path", 5), "path"),
        (change_test("argv", "sh"), "argv"),
        (change_test("env", [["A", "b\0"]]), "env"),
        (change_test("env", [["A"]]), "env"),
        (change_test("limits", [["NOFILE", "x"]]), "limits"),
        (change_test("locks", [1]), "locks"),
        (change_test("serial", 1), "serial"),
        (change_case("nodeid", 5), "nodeid"),
        (change_case("nodeid", "\ud800"), "nodeid"),
        (change_case("retries", "x"), "retries"),
        (change_case("unmet", 3), "unmet"),
        (change_case("properties", [[1, 2]]), "properties"),
        (change_config("install", "echo \ud800"), "install"),
        (change_config("environment", [["A", "\ud800"]]), "environment"),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_name(
    change: Callable[[Any], None], words: str
) -> None:
    job = values()
    change(job)
    with pytest.raises(BadJob, match=words):
        job_validation.parse_new_job(job)
