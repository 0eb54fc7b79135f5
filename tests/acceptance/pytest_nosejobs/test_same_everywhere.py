"""Tests that results are identical in plain runs and on hosts."""

from pathlib import Path

import pytest

from tests.helpers.single_host_run import LEAVE_SLEEP
from tests.helpers.sshd import Sshd

from .conftest import Project

SCRIPTS: dict[str, str | bytes] = {
    "test_pass": "echo fine",
    "test_fail": "echo out; echo err >&2; exit 3",
    "test_skip": "echo no docker; exit 77",
    "test_error": "exit 99",
    "test_signal": "kill -SEGV $$",
    "test_shell_signal": "exit 137",
    "test_timeout": "# nosejobs: timeout=0.3\necho before; sleep 60",
    "test_green_timeout": "# nosejobs: timeout=0.3\ntrap 'exit 0' TERM; sleep 60 & wait",
    "test_silent": "exit 1",
    "test_binary_output": "printf '\\000\\377\\033[31mred\\033[0m\\007'; exit 1",
    "test_leaves": f"{LEAVE_SLEEP}; exit 1",
    "test_cwd": '[ -f ./test_pass ] && [ -f "$TEST_SRCDIR/test_pass" ] && cat data.txt',
    "test_env": '# nosejobs: env=A=1,B=2\n[ "$A$B" = 12 ] && [ -z "$PYTEST_CURRENT_TEST" ]',
    "test_vars": "env | cut -d= -f1 | grep -Ev '^(LANG|LC_|TZ|USER|LOGNAME|SHELL|.*_proxy)' | sort",
    "test_tmp": 'ls -A "$TMPDIR" "$HOME" | grep -v ^/; touch "$TMPDIR/x" "$HOME/x"; exit 0',
    "test_umask": "umask; ulimit -c; tty; exit 1",
    "test_stdin": "cat; read x || exit 0; exit 1",
    "test_no_shebang": b"exit 5\n",
    "test_no_interpreter": b"#!/no/such/thing\n",
    "test_cr": b"#!/bin/sh\r\nexit 0\r\n",
    "test_foreign": b"\x7fELF\x02\x01\x01" + bytes(100),
    "test_empty": b"",
    "test_many_lines": "seq 200; exit 1",
    "test_long_line": "head -c 9000 /dev/zero | tr '\\0' x; exit 1",
    'test_<&>".sh': "echo '<&>\"]]>'; exit 1",
    "test_plain.t": b"print 'ok 1 - x', chr(10), '1..1', chr(10); exit 2",
    "sub/a_test.sh": "# nosejobs: cwd=root\n[ -f test_pass ]",
}


@pytest.fixture
def nasty(project: Project) -> Project:
    project.ini("junit_logging = all\nnosejobs_grace = 0.2")
    project.file("data.txt", "data\n")
    for name, text in SCRIPTS.items():
        project.add(name, text)
    return project


def test_plain_and_hosts_agree_to_the_letter(nasty: Project, sshd: Sshd) -> None:
    status, here = nasty.cases()
    assert status == 1
    assert len(here) == len(SCRIPTS) + 1  # test_plain.t has a case beside it
    for spec in ("3*popen", f"popen,{sshd.spec(slots=2)}"):
        there_status, there = nasty.cases(f"--nosejobs={spec}")
        assert there_status == status
        assert sorted(there) == sorted(here)
        for name, case in here.items():
            assert there[name].facts() == case.facts()


@pytest.mark.parametrize("hosts", [(), ("--nosejobs=3*popen",)])
def test_outcomes_are_those_of_the_rules(nasty: Project, hosts: tuple[str, ...]) -> None:
    _, cases = nasty.cases(*hosts)
    passed = {"pass", "cwd", "env", "vars", "tmp", "stdin", "empty"}
    assert {name for name, case in cases.items() if case.outcome == "passed"} == {
        *(f"test_{name}" for name in passed),
        "a_test.sh",
        "x",
    }
    errors = {"error", "no_interpreter", "cr", "foreign"}
    assert {name for name, case in cases.items() if case.outcome == "error"} == {
        f"test_{name}" for name in errors
    }
    assert {name for name, case in cases.items() if case.outcome == "skipped"} == {"test_skip"}
    assert cases["test_skip"].message == "no docker"


def test_a_failure_shows_what_a_person_needs(project: Project) -> None:
    project.add("a dir/test_x.sh", "# nosejobs: env=A=b\nseq 100; echo last words >&2; exit 3")
    for hosts in ((), ("--nosejobs=popen",)):
        result = project.run(*hosts)
        result.stdout.fnmatch_lines(
            [
                "exit 3",
                "command  ./test_x.sh",
                "host     *",
                "rerun    cd 'a dir' && A=b ./test_x.sh",
                "*50 lines before*",
                "100",
                "last words",
                "*FAILED a dir/test_x.sh::test_x - exit 3*",
            ]
        )


@pytest.mark.parametrize("hosts", [(), ("--nosejobs=2*popen",)])
def test_marks_of_a_conftest_are_honored(project: Project, hosts: tuple[str, ...]) -> None:
    project.file(
        "conftest.py",
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    marks = {'skip': pytest.mark.skip(reason='why'), 'xfail': pytest.mark.xfail,\n"
        "             'strict': pytest.mark.xfail(strict=True),\n"
        "             'if': pytest.mark.skipif('1 == 1', reason='if')}\n"
        "    for item in items:\n"
        "        item.add_marker(marks[item.name.split('_')[1]])\n",
    )
    for name, text in {
        "test_skip": "touch ran", "test_if": "touch ran", "test_xfail_a": "exit 1",
        "test_xfail_b": "exit 0", "test_strict_a": "exit 1", "test_strict_b": "exit 0",
    }.items():  # fmt: skip
        project.add(name, text)
    result = project.run(*hosts, "-rs")
    expected = {"skipped": 2, "xfailed": 2, "xpassed": 1, "failed": 1}
    assert result.parseoutcomes() == expected
    assert not (project.root / "ran").exists()


def test_a_makereport_wrapper_sees_the_same_reports(project: Project) -> None:
    project.wrap_makereport(
        "with open('seen', 'a') as file:",
        "    print(item.name, report.when, report.outcome, call.excinfo is None, file=file)",
        "report.user_properties.append(('seen', 'yes'))",
    )
    for name, text in {"test_a": "", "test_b": "exit 1", "test_c": "exit 77"}.items():
        project.add(name, text)
    reports = []
    for hosts in ((), ("--nosejobs=2*popen",)):
        _, cases = project.cases(*hosts)
        assert {case.properties["seen"] for case in cases.values()} == {"yes"}
        path = Path(project.root, "seen")
        reports.append(sorted(path.read_text().splitlines()))
        path.unlink()
    calls = [[line for line in lines if " call " in line] for lines in reports]
    assert [line.rsplit(" ", 1)[0] for line in calls[0]] == [
        "test_a call passed",
        "test_b call failed",
        "test_c call skipped",
    ]
    assert [line.rsplit(" ", 1)[0] for line in reports[1]] == [
        line.rsplit(" ", 1)[0] for line in reports[0]
    ]
