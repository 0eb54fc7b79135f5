"""What people see of builds, stages and hosts."""

from typing import Any

import pytest

from dispatcher.cli import tables


def run(stage: str = "unit", state: str = "passed", detail: str = "", number: int = 1) -> Any:
    return {
        "stage": stage, "number": number, "state": state, "detail": detail,
        "began": 1.0, "ended": 2.5,
    }  # fmt: skip


def stage(name: str, of: Any, tagged: bool = True, *needs: str) -> Any:
    return {"name": name, "needs": list(needs), "tagged": tagged, "run": of}


def job(host: str, part: int = 0, name: str = "unit", **counts: int) -> Any:
    return {
        "stage": name, "run": 1, "part": part, "attempt": 1, "host": host,
        "counts": dict.fromkeys(("passed", "failed", "error", "skipped"), 0) | counts,
    }  # fmt: skip


def build(**parts: Any) -> Any:
    names = ("jobs", "failures", "measurements", "tags", "decisions", "stages")
    return {"number": 1, **{name: [] for name in names}, **parts}


def printed(table: Any, capsys: pytest.CaptureFixture[str]) -> list[str]:
    tables.show(table)
    return capsys.readouterr().out.splitlines()


def test_nothing_empty_takes_place(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns in which nothing stands, and blanks behind a line."""
    stages = [stage("unit", run()), stage("a-long-name", run("a-long-name", "blocked"), False)]
    lines = printed(tables.stages({"stages": stages, "jobs": []}), capsys)
    assert lines[0].split() == ["stage", "tag", "state", "took"]
    assert lines == [line.rstrip() for line in lines]


def test_a_host_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    failed = stage("unit", run(state="failed", detail="h1: 1 test failed"), False)
    one = {"stages": [failed], "jobs": [job("h1", failed=1)]}
    assert printed(tables.stages(one), capsys)[1].endswith("h1     1 test failed")
    two = {"stages": [failed], "jobs": [job("h1", failed=1), job("h2", 1, passed=1)]}
    assert printed(tables.stages(two), capsys)[1].endswith("h1, h2  h1: 1 test failed")


def test_the_build_command_is_no_test(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"stages": [stage("build", run("build"))], "jobs": [job("h1", 0, "build", passed=1)]}
    assert "1 passed" not in "".join(printed(tables.stages(found), capsys))


def test_why_a_stage_that_passed_has_no_tag(capsys: pytest.CaptureFixture[str]) -> None:
    stages = [
        stage("unit", run(detail="2 tests"), False),
        stage("smoke", run("smoke", detail="1 test"), False, "unit"),
        stage("audit", run("audit", detail="3 tests")),
    ]
    lines = printed(tables.stages({"stages": stages, "jobs": []}), capsys)
    assert [line.split("1.5 s")[1].strip() for line in lines[1:]] == [
        "its tag was revoked", "no tag: unit has none", "",
    ]  # fmt: skip


def test_a_hosts_pool_stands_for_its_address(capsys: pytest.CaptureFixture[str]) -> None:
    host = {
        "name": "h1", "pool": "", "state": "down", "labels": [], "open": 0, "jobs": 3,
        "seen": None, "spec": "ssh=h1", "reason": "Connection refused\n  try: is sshd running?",
    }  # fmt: skip
    (_, line) = printed(tables.hosts([host]), capsys)
    assert line.endswith("never  ssh=h1  Connection refused; try: is sshd running?")
    made = {**host, "name": "here-1", "pool": "here", "spec": "agent=127.0.0.1:1//x=y"}
    lines = printed(tables.hosts([made]), capsys)
    assert lines[1].startswith("here-1 (here)")
    assert "agent=" not in "".join(lines)


@pytest.mark.parametrize(
    ("value", "words"),
    [(8_010_140.0, "8010140"), (0.1, "0.1"), (1234567.25, "1234567.25"), (1e30, "1e+30")],
)
def test_numbers_keep_their_digits(value: float, words: str) -> None:
    number = {"stage": "perf", "name": "rate", "value": value, "unit": "", "nodeid": "t"}
    assert list(tables.below(build(measurements=[number]))) == [("perf", f"rate = {words} (t)")]


def test_a_revocation_is_told_once() -> None:
    tag = {"run": 1, "revoked": 5.0, "stage": "unit", "reason": "flaky", "who": "ann"}
    found = build(tags=[tag, {**tag, "run": None}])
    assert list(tables.below(found)) == [("revoked", "tag unit: flaky")]


def test_what_people_decided_is_told() -> None:
    def said(stage: str, kind: str, reason: str = "") -> Any:
        return {"stage": stage, "kind": kind, "who": "ann", "reason": reason}

    waits = stage("smoke", {**run("smoke", "waiting"), "ended": None}, False)
    found = build(
        stages=[stage("unit", run()), waits],
        decisions=[said("unit", "held", "no"), said("smoke", "held"), said("x", "approved", "ok")],
    )
    assert list(tables.below(found)) == [
        ("held", "unit by ann, from its next run on: no"),
        ("held", "smoke by ann"),
        ("approved", "x by ann: ok"),
    ]


@pytest.mark.parametrize(
    ("state", "detail", "words"),
    [
        ("failed", "1 test failed", "unit: failed: 1 test failed"),
        ("held", "held by ann", "unit: held by ann"),
        ("running", "", "unit: running"),
        ("placing", "1 host; 1 fits: h1; h1 has 2 jobs", "unit: waits for hosts"),
        ("placing", "1 host; none fits", "unit: waits for hosts"),
        ("placing", "1 host; none fits; h2 is starting (it is brought up)",
         "unit: waits for hosts"),
        ("placing", "1 host with label gpu; none fits; h1 has no label gpu",
         "unit: waits for hosts: 1 host with label gpu; none fits; h1 has no label gpu"),
    ],
)  # fmt: skip
def test_a_line_says_where_a_run_stands_and_what_lasts(
    state: str, detail: str, words: str
) -> None:
    assert tables.news(run(state=state, detail=detail)) == words
