"""Tests of the rows that a package becomes: outcomes, cases, and numbers in output."""

from pathlib import Path

import pytest

from dispatcher.hosts import package_rows
from dispatcher.hosts.package_rows import parse_number, read_measurements, read_rows
from dispatcher.store.results import CaseRow, MeasurementRow, ResultRow
from shell_runner.errors import HostError
from shell_runner.remote.protocol.job import JobTest
from shell_runner.remote.protocol.model import Case, Execution, ParsedOutput, Problem
from shell_runner.remote.protocol.model import Test as Program
from tests.helpers import package_factories

JOB = "00000000-0000-4000-8000-000000000001"
TESTS = [JobTest(f"test_{n}.sh", Program(n, f"test_{n}.sh")) for n in range(4)]


def package(folder: Path, *executions: tuple[int, int, Execution]) -> package_rows.PackageRows:
    path = package_factories.write_package(folder / "p.zip", JOB, TESTS, executions)
    with package_rows.open_verified(path, "h1", JOB) as opened:
        return read_rows(opened, JOB)


def test_each_test_is_a_row_and_its_last_try_counts(tmp_path: Path) -> None:
    stored = package(
        tmp_path,
        (0, 1, Execution(0, exit_status=1, duration=9.0)),
        (0, 2, Execution(0, 2, exit_status=0, duration=0.5)),
        (1, 1, Execution(1, signal=11, duration=0.25)),
        (2, 1, Execution(2, problem=Problem.UNMET_REQUIREMENT, detail="requires docker")),
        (3, 1, Execution(3, problem=Problem.HOST_LOST)),
    )
    assert stored.end_reason == "completed"
    assert stored.results == [
        ResultRow(0, "test_0.sh", "passed", "exit 0", 0.5, 2, False, "attempt 1: failed: exit 1"),
        ResultRow(1, "test_1.sh", "failed", "killed by SIGSEGV", 0.25),
        ResultRow(2, "test_2.sh", "skipped", "not run: requires docker", 0.0),
        ResultRow(3, "test_3.sh", "error", "host lost", 0.0, 1, True),
    ]
    assert stored.durations == {"test_0.sh": 0.5}


def test_the_reasons_of_earlier_attempts_are_kept_and_bounded(tmp_path: Path) -> None:
    hostile = ParsedOutput("tap", [Case("x", "failed", "boom\x1b[31m\u202e\n" + "y" * 5000)])
    attempts = [Execution(0, n, exit_status=1, parsed=hostile) for n in range(1, 50)]
    attempts.append(Execution(0, 50, exit_status=0))
    rest = [(n, 1, Execution(n, exit_status=0)) for n in (1, 2, 3)]
    (flaky, *others) = package(tmp_path, *((0, e.attempt, e) for e in attempts), *rest).results
    assert (flaky.outcome, flaky.attempts) == ("passed", 50)
    lines = flaky.earlier_failures.split("\n")
    assert [line.partition(":")[0] for line in lines[:5]] == [f"attempt {n}" for n in range(1, 6)]
    assert lines[5:] == ["and 44 more"]
    assert all(line.isprintable() and len(line) < 400 for line in lines)
    assert {row.earlier_failures for row in others} == {""}


def test_cases_and_their_numbers_are_rows(tmp_path: Path) -> None:
    cases = [
        Case("one", "passed", duration=0.5, group="speed"),
        Case("two", "failed", "boom\x1b[31m", details="rate: 3", properties=(("n", "4 ms"),)),
    ]
    parsed = ParsedOutput("junit", cases)
    rest = [(n, 1, Execution(n, exit_status=0)) for n in (1, 2, 3)]
    rows = package(tmp_path, (0, 1, Execution(0, exit_status=1, parsed=parsed)), *rest)
    assert rows.cases == [
        CaseRow(0, 0, "speed > one", "passed", "", 0.5),
        CaseRow(0, 1, "two", "failed", "boom"),
    ]
    assert rows.measurements == [MeasurementRow(0, 1, "n", 4.0, "ms")]


def test_of_cases_and_numbers_beyond_all_reason_the_first_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_rows, "_MAX_CASES", 5)
    monkeypatch.setattr(package_rows, "_MAX_MEASUREMENTS", 3)
    cases = [Case(str(n), "passed", properties=(("a", "1"), ("b", "2"))) for n in range(3)]
    parsed = ParsedOutput("junit", [*cases, Case("red", "failed")])
    rows = [(n, 1, Execution(n, exit_status=0, duration=-5.0, parsed=parsed)) for n in range(4)]
    stored = package(tmp_path, *rows)
    assert [(row.test, row.name) for row in stored.cases] == [
        (0, "0"), (0, "1"), (0, "2"), (0, "red"), (1, "0"),
    ]  # fmt: skip
    assert [(row.case, row.name) for row in stored.measurements] == [(0, "a"), (0, "b"), (1, "a")]
    # The verdict counts all cases, also those without a row.
    assert [row.outcome for row in stored.results] == ["failed"] * 4
    assert {row.duration for row in stored.results} == {0.0}
    assert stored.detail == "only the first 5 cases and 3 measurements are stored"


@pytest.mark.parametrize("missing", range(4))
def test_a_package_that_says_nothing_of_a_test_is_refused(tmp_path: Path, missing: int) -> None:
    rows = [(n, 1, Execution(n, exit_status=0)) for n in range(4) if n != missing]
    with pytest.raises(HostError, match=f"test {missing} of 4"):
        package(tmp_path, *rows)


def test_a_package_with_more_tests_than_it_has_is_refused(tmp_path: Path) -> None:
    rows = [(n, 1, Execution(n, exit_status=0)) for n in range(5)]
    with pytest.raises(HostError, match="is refused"):
        package(tmp_path, *rows)


@pytest.mark.parametrize(
    ("test", "field"),
    [
        (JobTest("t", Program(0, "t"), properties=5), "properties must be"),  # type: ignore[arg-type]
        (JobTest("t", Program(0, "t", argv=5)), "argv must be"),  # type: ignore[arg-type]
        (JobTest("t\ud800", Program(0, "t")), "nodeid must be"),
        (JobTest("t", Program(0, "t", output_format=None)), "output_format must be"),  # type: ignore[arg-type]
        (JobTest("t", 5), "not a test"),  # type: ignore[arg-type]
    ],
)
def test_a_test_with_a_value_of_another_type_is_refused_by_its_field(
    tmp_path: Path, test: JobTest, field: str
) -> None:
    rows = [(0, 1, Execution(0, exit_status=0))]
    path = package_factories.write_package(tmp_path / "p.zip", JOB, [test], rows)
    message = f"is refused: 'manifest.json': its test 0 cannot be read: .*{field}"
    with (
        pytest.raises(HostError, match=message),
        package_rows.open_verified(path, "h1", JOB),
    ):
        pass


def test_the_unit_of_a_number_is_safe_to_be_shown() -> None:
    case = Case("x", "passed", properties=(("a", "3 m\ud800"), ("b", "4 m\x1b[2J")))
    assert read_measurements(case, "junit") == {"a": (3.0, "m\\ud800"), "b": (4.0, "m")}


def test_the_end_of_a_log_is_safe_to_be_shown(tmp_path: Path) -> None:
    log = b"".join(b"build | line %d\n" % n for n in range(100)) + b"\x1b[31mred\xff\n"
    rows = [(n, 1, Execution(n, exit_status=0)) for n in range(4)]
    path = package_factories.write_package(tmp_path / "p.zip", JOB, TESTS, rows, {"log.txt": log})
    with package_rows.open_verified(path, "h1", JOB) as opened:
        lines = package_rows.log_tail(opened).splitlines()
    assert len(lines) == 20
    assert lines[-2:] == ["build | line 99", "red\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", (12.0, "")),
        (" -1.5e3 ", (-1500.0, "")),
        ("12.5 ms", (12.5, "ms")),
        ("3e4req/s", (30000.0, "req/s")),
        ("'99.9 %'", (99.9, "%")),
        (".5", (0.5, "")),
        ("", None),
        ("1.2.3", None),
        ("12 of 13", None),
        ("2001-01-01", None),
        ("nan", None),
        ("1e999", None),
        ("true", None),
        ("1" * 5000, None),
    ],
)
def test_a_number_is_one_with_a_unit_or_none(text: str, value: tuple[float, str] | None) -> None:
    assert parse_number(text) == value


def test_numbers_of_yaml_are_named_by_their_place() -> None:
    details = (
        "rate: 512.5 req/s  # mean\nlatency:\n  p50: 1 ms\n  p99: 3 ms\nmessage: none\n"
        "line: 12\nat:\n  column: 3\n- 5\nlist: [1, 2]\nsize: 7\nplain text, 3 of them: no\n"
    )
    assert read_measurements(Case("x", "passed", details=details), "tap") == {
        "rate": (512.5, "req/s"),
        "latency.p50": (1.0, "ms"),
        "latency.p99": (3.0, "ms"),
        "size": (7.0, ""),
    }
    assert read_measurements(Case("x", "passed", details=details), "junit") == {}


def test_numbers_of_one_case_are_bounded() -> None:
    details = "\n".join(f"n{each}: {each}" for each in range(10_000))
    assert len(read_measurements(Case("x", "passed", details=details), "tap")) == 200
