"""Tests that what each plugin writes or does is right for programs, here and on hosts."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.plugins.sample_project import (
    PROGRAM_OUTCOMES,
    REPORT_OUTCOMES,
    Run,
    SampleProject,
)

RunWith = Callable[[str, str], Run]

FAILURE = "pytest_nosejobs.items.ShellFailure"
#: The reason of each failed call, by the id of its report.
REASONS = {
    "sh/mixed.t::b": "got 1",
    "sh/test_fail.sh::test_fail": "exit 3",
    "test_python.py::test_fail": "assert 1 == 2",
}
#: A conftest file that gives items a marker: ``MARKS`` has its arguments by the item's name.
MARKING = """
import pytest
MARKS = {}
def pytest_collection_modifyitems(items):
    for item in items:
        for name, arguments in MARKS.get(item.name, ()):
            item.add_marker(getattr(pytest.mark, name)(**arguments))
"""


def mark(**marks: list[tuple[str, dict[str, object]]]) -> str:
    """Return a conftest file that gives items these markers."""
    return MARKING.replace("{}", repr(marks))


# -- reports -----------------------------------------------------------------------


def test_allure_knows_failed_from_broken(mode: str, run_with: RunWith) -> None:
    folder = run_with("allure-pytest", mode).root / "out/allure"
    results = [json.loads(path.read_text()) for path in folder.glob("*-result.json")]
    assert {
        each["fullName"]: (each["status"], each.get("statusDetails", {}).get("message", ""))
        for each in results
        if each["fullName"].startswith("sh.")
    } == {
        "sh.green#green": ("passed", ""),
        "sh.mixed#mixed": ("failed", f"{FAILURE}: 1 of 4 cases failed"),
        "sh.test_error#test_error": ("failed", f"{FAILURE}: exit 99"),
        "sh.test_fail#test_fail": ("failed", f"{FAILURE}: exit 3"),
        "sh.test_flaky#test_flaky": ("passed", ""),
        "sh.test_pass#test_pass": ("passed", ""),
        "sh.test_skip#test_skip": ("skipped", "Skipped: no net"),
        "sh.test_tagged#test_tagged": ("passed", ""),
    }
    (tagged,) = [each for each in results if each["name"] == "test_tagged"]
    assert {"name": "tag", "value": "smoke"} in tagged["labels"]


def test_json_report_has_outcome_and_crash(mode: str, run_with: RunWith) -> None:
    report = json.loads(run_with("pytest-json-report", mode).read("report.json"))
    tests = {each["nodeid"]: each for each in report["tests"]}
    outcomes = {nodeid: each["outcome"] for nodeid, each in tests.items()}
    # The plugin calls every test with a rerun so, also a Python test that has passed.
    assert outcomes == {**REPORT_OUTCOMES, "sh/test_flaky.sh::test_flaky": "rerun"}
    assert tests["sh/test_fail.sh::test_fail"]["call"]["crash"] == {
        "path": "sh/test_fail.sh", "lineno": 1, "message": "exit 3",
    }  # fmt: skip
    assert tests["sh/mixed.t::b"]["call"]["crash"]["message"] == "got 1"


def test_reportlog_has_path_line_and_reason(mode: str, run_with: RunWith) -> None:
    lines = run_with("pytest-reportlog", mode).read("log.jsonl").splitlines()
    failed = [each for each in map(json.loads, lines) if each.get("outcome") == "failed"]
    crashes = {each["nodeid"]: each["longrepr"]["reprcrash"] for each in failed if each["longrepr"]}
    assert crashes["sh/mixed.t::b"] == {"path": "sh/mixed.t", "lineno": 1, "message": "got 1"}
    assert crashes["sh/test_error.sh::test_error"]["message"] == "exit 99"
    assert {key: each["message"] for key, each in crashes.items() if key in REASONS} == REASONS


def read_html(text: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a report of pytest-html by id."""
    found = re.search(r'data-jsonblob="([^"]*)"', text)
    assert found is not None
    tests: dict[str, list[dict[str, Any]]] = json.loads(html.unescape(found[1]))["tests"]
    return tests


def test_html_has_a_row_for_each_outcome(mode: str, run_with: RunWith) -> None:
    tests = read_html(run_with("pytest-html", mode).read("report.html"))
    # A failed teardown is the second row of a test, as a failed attempt is the first.
    assert {key: rows[-1]["result"].lower() for key, rows in tests.items()} == REPORT_OUTCOMES
    rows = tests["sh/test_flaky.sh::test_flaky"]
    assert [each["result"] for each in rows] == ["Rerun", "Passed"]
    assert "exit 3" in tests["sh/test_fail.sh::test_fail"][0]["log"]


def test_html_links_artifacts(hosts: list[str], project: SampleProject) -> None:
    project.program(
        "sh/test_log.sh",
        'cd "$TEST_UNDECLARED_OUTPUTS_DIR"\necho a > "a log.txt"\necho b > b',
    )
    options = (
        "-p",
        "metadata",
        "-p",
        "html",
        "--html=out/html/r.html",
        "--nosejobs-artifacts=out/art",
    )
    run = project.run(*options, *hosts)
    assert run.status == 0
    (row,) = read_html(run.read("html/r.html"))["sh/test_log.sh::test_log"]
    cells = "".join(row["resultsTableRow"])
    assert 'href="../art/sh/test_log.sh/a%20log.txt"' in cells
    assert 'href="../art/sh/test_log.sh/b"' in cells


def test_instafail_shows_each_failure_once(mode: str, run_with: RunWith) -> None:
    before_summary = run_with("pytest-instafail", mode).stdout.partition("PASSES")[0]
    for nodeid in ("sh/mixed.t::b", "sh/test_fail.sh::test_fail"):
        assert len(re.findall(f"(?m)^{re.escape(REASONS[nodeid])}$", before_summary)) == 1


def test_the_bar_of_sugar_ends_at_100_percent(mode: str, run_with: RunWith) -> None:
    numbers = re.findall(r"(\d+)%", run_with("pytest-sugar", mode).stdout)
    values = [int(each) for each in numbers]
    assert values == sorted(values)
    assert values[-1] == 100


def test_the_bar_of_sugar_ends_with_a_program_with_cases(
    hosts: list[str], project: SampleProject
) -> None:
    project.program("cases.t", "seq -f 'ok %g' 5\necho 1..5")
    run = project.run("-p", "sugar", "--force-sugar", *hosts)
    assert run.status == 0, run.stdout + run.stderr
    assert set(re.findall(r"(\d+)%", run.stdout)) == {"100"}


# -- CI servers --------------------------------------------------------------------


def test_github_annotations_have_path_line_and_reason(
    hosts: list[str], project: SampleProject
) -> None:
    project.add_all()
    options = ("-p", "pytest_github_actions_annotate_failures", *hosts)
    run = project.run(*options, variables={"GITHUB_ACTIONS": "true"})
    assert sorted(each for each in run.stderr.splitlines() if each.startswith("::error")) == [
        "::error file=sh/mixed.t,line=1::b%0A%0Agot 1",
        "::error file=sh/test_fail.sh,line=1::test_fail%0A%0Aexit 3",
        # as the plugin shows an attempt of pytest-rerunfailures
        "::error file=sh/test_flaky.sh,line=1::test_flaky%0A%0Aexit 1",
        "::error file=test_python.py,line=6::test_fail%0A%0Aassert 1 == 2",
    ]


def test_teamcity_sees_each_test_begin_and_end(mode: str, run_with: RunWith) -> None:
    text = run_with("teamcity-messages", mode).stdout
    events: dict[str, list[str]] = {}
    for event, attributes in re.findall(r"##teamcity\[test(\w+) ([^\n]*)\]", text):
        name = re.search(r"name='((?:[^'|]|\|.)*)'", attributes)
        if name:
            events.setdefault(name[1], []).append(event)
    kinds = {"passed": ["Started", "Finished"], "failed": ["Started", "Failed", "Finished"]}
    kinds["error"] = kinds["failed"]
    kinds["skipped"] = kinds["xfailed"] = ["Started", "Ignored", "Finished"]
    expected = {
        key.replace(".py::", "::").replace("[", "(").replace("]", ")").replace(".", "_")
        .replace("/", ".").replace("::", "."): kinds[value]
        for key, value in REPORT_OUTCOMES.items()
    }  # fmt: skip
    expected["test_python.test_teardown"] = kinds["passed"]
    expected["test_python.test_teardown_teardown"] = kinds["failed"]
    outputs = ("StdOut", "StdErr")
    assert {
        name: [each for each in found if each not in outputs] for name, found in events.items()
    } == expected
    compared = re.findall(r"testFailed [^\n]* actual=[^\n]* name='([^']*)'", text)
    assert compared == ["test_python.test_fail"]


def test_teamcity_does_not_show_the_values_of_an_earlier_test(
    hosts: list[str], project: SampleProject
) -> None:
    project.file("a/test_python.py", "def test_fail(): assert 1 == 2\n")
    project.program("b/test_fail.sh", "sleep 1\nexit 3")
    text = project.run("-p", "pytest-teamcity", "--teamcity", *hosts).stdout
    failed = re.findall(r"testFailed ([^\n]*) name='([^']*)'", text)
    assert sorted((name, "actual=" in attributes) for attributes, name in failed) == [
        ("a.test_python.test_fail", True), ("b.test_fail_sh.test_fail", False),
    ]  # fmt: skip


# -- plugins that run, repeat, choose or order tests ---------------------------------


@pytest.mark.parametrize(
    "options",
    [("-p", "pytest-retry", "--retries=2"), ("-p", "rerunfailures", "--reruns=2")],
    ids=["retry", "rerunfailures"],
)
def test_failed_programs_run_again(
    options: tuple[str, ...], hosts: list[str], project: SampleProject
) -> None:
    count = 'echo x >> "$0.runs"\n'
    project.program("test_fail.sh", f"{count}exit 1")
    project.program("test_pass.sh", f"{count}exit 0")
    project.program("test_third.sh", f'{count}[ $(wc -l < "$0.runs") = 3 ]')
    project.program("cases.t", f"{count}printf '1..2\\nok 1\\nnot ok 2\\n'")
    project.file(
        "test_python.py",
        "runs = []\ndef test_p():\n    runs.append(1)\n    assert len(runs) == 2\n",
    )
    run = project.run(*options, *hosts)
    assert run.status == 1, run.stdout + run.stderr
    files = project.root.glob("*.runs")
    assert {each.name: len(each.read_text().split()) for each in files} == {
        "test_fail.sh.runs": 3, "test_pass.sh.runs": 1, "test_third.sh.runs": 3, "cases.t.runs": 3,
    }  # fmt: skip
    assert "test_third.sh: passed on attempt 3 of 3" in run.stdout
    assert [each.partition(" - ")[0] for each in run.summary if each.startswith("FAILED")] == [
        "FAILED cases.t::test 2", "FAILED test_fail.sh::test_fail",
    ]  # fmt: skip
    assert "PASSED test_python.py::test_p" in run.summary


def test_markers_of_retry_count(hosts: list[str], project: SampleProject) -> None:
    project.file(
        "conftest.py",
        mark(
            test_a=[("flaky", {"retries": 1})],
            test_b=[("flaky", {"retries": 1, "condition": False})],
        ),
    )
    for name in ("test_a.sh", "test_b.sh"):
        project.program(name, 'echo x >> "$0.runs"\nexit 1')
    assert project.run("-p", "pytest-retry", *hosts).status == 1
    assert (project.root / "test_a.sh.runs").read_text() == "x\nx\n"
    assert (project.root / "test_b.sh.runs").read_text() == "x\n"


def test_repeat_counts_programs(hosts: list[str], project: SampleProject) -> None:
    project.program("test_a.sh", "exit 0")
    project.program("cases.t", "printf '1..1\\nok 1 - a\\n'")
    project.file("test_python.py", "def test_p(): pass\n")
    run = project.run("-p", "repeat", "--count=2", *hosts)
    assert run.status == 0
    assert run.summary == [
        "PASSED cases.t::repeat-1-of-2::a", "PASSED cases.t::repeat-2-of-2::a",
        "PASSED test_a.sh::repeat-1-of-2", "PASSED test_a.sh::repeat-2-of-2",
        "PASSED test_python.py::test_p[1-2]", "PASSED test_python.py::test_p[2-2]",
    ]  # fmt: skip


def test_the_own_option_for_repeats_takes_precedence(project: SampleProject) -> None:
    project.program("test_a.sh", "exit 0")
    run = project.run("-p", "repeat", "--count=2", "--nosejobs-repeat=1")
    assert run.summary == ["PASSED test_a.sh::test_a"]


def test_split_knows_the_durations_of_programs(
    mode: str, hosts: list[str], run_with: RunWith, project: SampleProject
) -> None:
    durations = json.loads(run_with("pytest-split", mode).read("durations"))
    assert PROGRAM_OUTCOMES.keys() <= durations.keys()
    assert durations["sh/mixed.t::mixed"] >= durations["sh/mixed.t::a"] > 0
    project.add_all()
    stored = dict.fromkeys(durations, 0.001) | {"sh/mixed.t::mixed": 100.0}
    project.file("durations", json.dumps(stored))
    split = (
        "-p",
        "pytest-split",
        "--splits=2",
        "--durations-path=durations",
        "--collect-only",
        "-q",
    )
    groups = [project.run(*split, f"--group={number}", *hosts).stdout for number in (1, 2)]
    # All others together take less time than this one.
    lonely = [each for each in groups if "sh/mixed.t::mixed" in each]
    assert len(lonely) == 1
    assert "estimated duration: 100" in lonely[0]


def test_stored_durations_are_not_in_the_summary(project: SampleProject) -> None:
    project.program("cases.t", "printf '1..1\\nok 1 - a\\n'")
    run = project.run(
        "-p", "pytest-split", "--store-durations", "--durations-path=out/d", "--durations=0", "-vv"
    )
    assert "cases.t::cases" in run.read("d")
    assert not re.search(r"\d s?(call|setup) +cases\.t::cases", run.stdout)
    assert "1 passed" in run.stdout


def test_order_sorts_programs(project: SampleProject) -> None:
    project.file(
        "conftest.py",
        mark(
            test_a=[("order", {"index": 3})],
            test_b=[("order", {"index": 1})],
            test_p=[("order", {"index": 2})],
        ),
    )
    for name in ("test_a.sh", "test_b.sh"):
        project.program(name, 'basename "$0" >> ran')
    project.file(
        "test_python.py",
        "def test_p():\n    with open('ran', 'a') as file: print('p', file=file)\n",
    )
    assert project.run("-p", "pytest_order").status == 0
    assert (project.root / "ran").read_text().split() == ["test_b.sh", "p", "test_a.sh"]


def test_order_by_module_keeps_all_programs(hosts: list[str], project: SampleProject) -> None:
    project.add_all()
    project.file("conftest.py", mark(test_pass=[("order", {"index": 0})]))
    run = project.run("-p", "pytest_order", "--order-scope=module", *hosts)
    assert run.status == 1
    assert len(run.summary) == 19


def depend(name: str, *needs: str) -> list[tuple[str, dict[str, object]]]:
    """Return the marker of pytest-dependency."""
    return [("dependency", {"name": name, "depends": list(needs), "scope": "session"})]


def test_dependency_skips_what_depends_on_a_failure(
    hosts: list[str], project: SampleProject
) -> None:
    project.file(
        "conftest.py",
        mark(
            test_a=depend("a"), test_b=depend("b", "a"), test_c=depend("c", "b"),
            test_d=depend("d"), test_e=depend("e", "d"), test_p=depend("p", "d"),
            test_z=depend("z", "p"),
        ),
    )  # fmt: skip
    texts = {"a": "sleep 0.3\nexit 1", "b": "", "c": "", "d": "sleep 0.3", "e": "", "z": ""}
    for name, text in texts.items():
        project.program(f"test_{name}.sh", f"{text}\ntouch ran-{name}")
    project.file("test_p.py", "def test_p(): pass\n")
    run = project.run("-p", "dependency", *hosts)
    assert Counter(each.split()[0] for each in run.summary) == {
        "FAILED": 1, "SKIPPED": 2, "PASSED": 4,
    }  # fmt: skip
    reasons = [each.partition(": ")[2] for each in run.summary if each.startswith("SKIPPED")]
    assert sorted(reasons) == ["test_b depends on a", "test_c depends on b"]
    ran = sorted(each.name for each in project.root.glob("ran-*"))
    assert ran == ["ran-d", "ran-e", "ran-z"]


def test_dependency_ends_when_all_hosts_are_lost(project: SampleProject) -> None:
    project.file("conftest.py", mark(test_a=depend("a"), test_b=depend("b", "a")))
    project.program("test_a.sh", "kill -9 $(ps -o ppid= -p $PPID) $PPID\nsleep 60")
    project.program("test_b.sh", "exit 0")
    run = project.run("-p", "dependency", "--nosejobs=popen", "--nosejobs-max-lost=1")
    assert run.status == 6
    assert sorted(each.split()[0] for each in run.summary) == ["ERROR", "SKIPPED"]


def test_timeout_ends_a_program(hosts: list[str], project: SampleProject) -> None:
    project.program("test_a.sh", "sleep 60")
    run = project.run("-p", "timeout", "--timeout=0.5", *hosts)
    assert run.status == 1
    assert "timed out" in run.summary[0] or "timeout" in run.summary[0]


def test_workers_of_xdist_report_the_same_once(run_with: RunWith, project: SampleProject) -> None:
    project.add_all()
    run, bare = project.run("-p", "xdist", "-n", "2"), run_with("", "here")
    assert run.status == bare.status
    assert run.rows == bare.rows
    assert run.summary == bare.summary
    shown = Counter(run.stdout.partition("FAILURES")[2].partition("PASSES")[0].splitlines())
    assert (shown["exit 3"], shown["out"], shown["err"], shown["# got 1"]) == (1, 1, 1, 1)


@pytest.mark.parametrize("setting", ["here", "hosts", "python"])
def test_coverage_of_subprocesses_leaves_no_file(setting: str, project: SampleProject) -> None:
    hosts = {
        "here": [],
        "hosts": ["--nosejobs=2*popen"],
        "python": ["--nosejobs=popen//python=python3"],
    }
    project.file(".coveragerc", "[run]\npatch = subprocess\n")
    project.program("test_a.sh", "exit 0")
    project.file(
        "test_python.py",
        "import subprocess, sys\nimport below\n"
        "def test_p(): subprocess.run([sys.executable, 'below.py'], check=True)\n",
    )
    project.file("below.py", "if __name__ == '__main__':\n    print('measured')\n")
    run = project.run("-p", "pytest_cov", "--cov=.", "--cov-report=term-missing", *hosts[setting])
    assert run.status == 0
    assert re.search(r"below.py +2 +0 +100%", run.stdout)  # the subprocess of the Python test
    assert [each.name for each in project.root.rglob(".coverage.*")] == []


def test_stepwise_on_hosts_says_why_not(project: SampleProject) -> None:
    project.program("test_a.sh", "exit 1")
    run = project.run("--stepwise", "--nosejobs=2*popen")
    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert "--stepwise and --nosejobs cannot be used at once" in run.stderr
