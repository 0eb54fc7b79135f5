"""Tests of the tables and texts about builds, stages and hosts."""

from typing import Any

import pytest

from dispatcher.cli import tables


def run(
    stage: str = "unit",
    state: str = "passed",
    detail: str = "",
    number: int = 1,
    selected: int | None = None,
) -> Any:
    return {
        "stage": stage, "number": number, "state": state, "detail": detail,
        "started_at": 1.0, "ended_at": 2.5, "selected_test_count": selected,
    }  # fmt: skip


def stage(name: str, of: Any, tagged: bool = True, *needs: str) -> Any:
    return {"name": name, "needs": list(needs), "tagged": tagged, "run": of}


def job(host: str, part: int = 0, name: str = "unit", **counts: int) -> Any:
    return {
        "stage": name, "run_number": 1, "part": part, "attempt": 1, "host": host,
        "counts": dict.fromkeys(("passed", "failed", "error", "skipped"), 0) | counts,
    }  # fmt: skip


def build(**parts: Any) -> Any:
    names = ("jobs", "failures", "flaky", "measurements", "tags", "decisions", "stages")
    return {"number": 1, **{name: [] for name in names}, **parts}


def print_lines(table: Any, capsys: pytest.CaptureFixture[str]) -> list[str]:
    tables.print_table(table)
    return capsys.readouterr().out.splitlines()


def test_empty_columns_and_trailing_blanks_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """A column without values is not shown, nor are blanks at the end of a line."""
    stages = [stage("unit", run()), stage("a-long-name", run("a-long-name", "blocked"), False)]
    lines = print_lines(tables.format_stages({"stages": stages, "jobs": []}), capsys)
    assert lines[0].split() == ["stage", "tag", "state", "took"]
    assert lines == [line.rstrip() for line in lines]


def test_a_host_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    failed = stage("unit", run(state="failed", detail="h1: 1 test failed"), False)
    one = {"stages": [failed], "jobs": [job("h1", failed=1)]}
    assert print_lines(tables.format_stages(one), capsys)[1].endswith("h1     1 test failed")
    two = {"stages": [failed], "jobs": [job("h1", failed=1), job("h2", 1, passed=1)]}
    assert print_lines(tables.format_stages(two), capsys)[1].endswith("h1, h2  h1: 1 test failed")


def rerun_table(*selected: int | None) -> tuple[Any, list[Any]]:
    """Return a build whose stage of five ran several times, and its jobs."""
    runs = [run(number=number, selected=count) for number, count in enumerate(selected, 1)]
    jobs = [
        {**job("h1", passed=4 if count is None else 1, failed=int(count is None)), "run_number": n}
        for n, count in enumerate(selected, 1)
    ]
    return {"stages": [stage("unit", runs[-1])], "runs": runs, "jobs": jobs}, jobs


@pytest.mark.parametrize(
    ("selected", "counts"),
    [
        ((None,), "4 passed, 1 failed"),
        ((None, 1), "1 passed (run 1: 4 passed, 1 failed)"),
        ((None, 1, 1), "1 passed (run 2: 1 passed; run 1: 4 passed, 1 failed)"),
        ((None, 1, None), "4 passed, 1 failed"),
        ((None, None, 1), "1 passed (run 2: 4 passed, 1 failed)"),
    ],
)
def test_a_run_of_some_tests_names_the_runs_that_it_stands_on(
    capsys: pytest.CaptureFixture[str], selected: tuple[int | None, ...], counts: str
) -> None:
    found, jobs = rerun_table(*selected)
    lines = print_lines(tables.format_stages(found), capsys)
    assert f" {counts}  " in lines[1]
    jobs[-1]["counts"] = None
    if len(selected) == 2:
        lines = print_lines(tables.format_stages(found), capsys)
        assert " none yet (run 1: 4 passed, 1 failed)  " in lines[1]


def test_a_run_without_a_verdict_is_no_base(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = rerun_table(None, 1, 1)
    found["runs"][1]["state"] = "canceled"
    lines = print_lines(tables.format_stages(found), capsys)
    assert " 1 passed (run 1: 4 passed, 1 failed)  " in lines[1]


@pytest.mark.parametrize(
    ("states", "command"),
    [
        (["gated", "held"], "nosejobs approve 1 s0; nosejobs approve 1 s1"),
        (["held", "waiting", "gated"], "nosejobs approve 1 s2; nosejobs approve 1 s0"),
        (["held"] * 5, "; ".join(f"nosejobs approve 1 s{n}" for n in range(3)) + "; and 2 more"),
        (["held", "failed"], "nosejobs logs 1 s1; nosejobs rerun 1 s1 --failed"),
        (["canceled", "canceled"], "nosejobs rerun 1 s0"),
        (["passed"], ""),
    ],
)
def test_every_stage_that_waits_for_a_person_is_suggested(states: list[str], command: str) -> None:
    stages = [stage(f"s{n}", run(f"s{n}", state)) for n, state in enumerate(states)]
    assert tables.suggest_next_step(build(stages=stages)) == command


def test_a_flaky_test_is_shown_with_the_reasons_of_its_failures() -> None:
    flaky = {
        "job": "j", "nodeid": "test_a.sh", "attempts": 3,
        "earlier_failures": "attempt 1: failed: exit 1\nattempt 2: error: exit 99",
    }  # fmt: skip
    found = build(jobs=[{**job("h1"), "id": "j"}], flaky=[flaky] * 25)
    lines = list(tables.format_build_footer(found))
    assert lines[0] == (
        "unit",
        "FLAKY test_a.sh - passed on attempt 3 (on h1); "
        "attempt 1: failed: exit 1; attempt 2: error: exit 99",
    )
    assert (len(lines), lines[-1]) == (21, ("", "and 5 more"))


def test_the_build_command_is_no_test(capsys: pytest.CaptureFixture[str]) -> None:
    detail = {"stages": [stage("build", run("build"))], "jobs": [job("h1", 0, "build", passed=1)]}
    assert "1 passed" not in "".join(print_lines(tables.format_stages(detail), capsys))


def test_a_passed_stage_without_tag_has_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    stages = [
        stage("unit", run(detail="2 tests"), False),
        stage("smoke", run("smoke", detail="1 test"), False, "unit"),
        stage("audit", run("audit", detail="3 tests")),
    ]
    lines = print_lines(tables.format_stages({"stages": stages, "jobs": []}), capsys)
    assert [line.split("1.5 s")[1].strip() for line in lines[1:]] == [
        "its tag was revoked", "no tag: unit has none", "",
    ]  # fmt: skip


def test_the_pool_replaces_the_spec_of_its_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    host = {
        "name": "h1", "pool": "", "state": "down", "labels": [], "open_jobs": 0,
        "jobs_ended": 3, "last_seen_at": None, "spec": "ssh=h1",
        "reason": "Connection refused\n  try: is sshd running?",
    }  # fmt: skip
    (_, line) = print_lines(tables.format_hosts([host]), capsys)
    assert line.endswith("never  ssh=h1  Connection refused; try: is sshd running?")
    made = {**host, "name": "here-1", "pool": "here", "spec": "agent=127.0.0.1:1//x=y"}
    lines = print_lines(tables.format_hosts([made]), capsys)
    assert lines[1].startswith("here-1 (here)")
    assert "agent=" not in "".join(lines)


@pytest.mark.parametrize(
    ("value", "text"),
    [(8_010_140.0, "8010140"), (0.1, "0.1"), (1234567.25, "1234567.25"), (1e30, "1e+30")],
)
def test_numbers_keep_their_digits(value: float, text: str) -> None:
    number = {"stage": "perf", "name": "rate", "value": value, "unit": "", "nodeid": "t"}
    assert list(tables.format_build_footer(build(measurements=[number]))) == [
        ("perf", f"rate = {text} (t)")
    ]


def test_a_revocation_is_shown_once() -> None:
    tag = {
        "run_number": 1, "revoked_at": 5.0, "stage": "unit", "revocation_reason": "flaky",
        "actor": "ann",
    }  # fmt: skip
    detail = build(tags=[tag, {**tag, "run_number": None}])
    assert list(tables.format_build_footer(detail)) == [("revoked", "tag unit: flaky")]


@pytest.mark.parametrize(
    ("state", "before", "lines_before"),
    [
        ("placing", "", ""),
        ("running", "h1 was lost; waiting: ", "h1 was lost\n          waiting: "),
    ],
)
def test_show_says_why_a_stage_can_never_be_placed_and_what_to_do(
    capsys: pytest.CaptureFixture[str], state: str, before: str, lines_before: str
) -> None:
    """The table has what is needed; what exists and what to do are lines below the table."""
    reason = "can never be placed: needs 2 hosts, and there is 1"
    detail = f"{before}{reason}; the dispatcher has host h1; add"
    found = build(stages=[stage("unit", run(state=state, detail=detail), False)])
    lines = print_lines(tables.format_stages(found), capsys)
    assert lines[1].endswith(f"{before}{reason}")
    assert list(tables.format_lines(tables.format_build_footer(found))) == [
        *f"unit      {lines_before}{reason}".splitlines(),
        "          the dispatcher has host h1",
        "          add",
        "next      nosejobs cancel 1 unit",
    ]


def test_decisions_are_shown() -> None:
    def decision(stage: str, kind: str, reason: str = "") -> Any:
        return {"stage": stage, "kind": kind, "actor": "ann", "reason": reason}

    waits = stage("smoke", {**run("smoke", "waiting"), "ended_at": None}, False)
    detail = build(
        stages=[stage("unit", run()), waits],
        decisions=[
            decision("unit", "held", "no"),
            decision("smoke", "held"),
            decision("x", "approved", "ok"),
        ],
    )
    assert list(tables.format_build_footer(detail)) == [
        ("held", "unit by ann, from its next run on: no"),
        ("held", "smoke by ann"),
        ("approved", "x by ann: ok"),
    ]


@pytest.mark.parametrize(
    ("state", "detail", "line"),
    [
        ("failed", "1 test failed", "unit: failed: 1 test failed"),
        ("held", "held by ann", "unit: held by ann"),
        ("running", "", "unit: running"),
        ("placing", "needs 1 host; 1 matches: h1; h1 has 2 jobs", "unit: waiting for hosts"),
        ("placing", "needs 1 host; none matches", "unit: waiting for hosts"),
        ("placing", "needs 1 host; none matches; h2 is starting (it is brought up)",
         "unit: waiting for hosts"),
        ("placing", "needs 1 host with label gpu; none matches; h1 has no label gpu",
         "unit: waiting for hosts: needs 1 host with label gpu; none matches; h1 has no label gpu"),
        ("placing", "can never be placed: needs 1 host; the dispatcher has no hosts and no pools",
         "unit can never be placed: needs 1 host; the dispatcher has no hosts and no pools"),
    ],
)  # fmt: skip
def test_the_status_line_of_a_run_has_lasting_details_only(
    state: str, detail: str, line: str
) -> None:
    assert tables.format_run_status(run(state=state, detail=detail)) == line
