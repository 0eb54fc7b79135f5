"""Tests of JUnit XML: it is well-formed whatever a program prints, and complete."""

import xml.etree.ElementTree as ET

import junitparser
import pytest

from tests.helpers.single_host_run import LEAVE_SLEEP

from .conftest import Project

HOSTS = "--nosejobs=2*popen"


@pytest.mark.parametrize("hosts", [(), (HOSTS,)])
def test_binary_garbage_parses_with_every_parser(project: Project, hosts: tuple[str, ...]) -> None:
    etree = pytest.importorskip("lxml.etree", reason="lxml is not installed")
    project.ini("junit_logging = all")
    garbage = bytes(range(256)) * 4 + "]]>&#0;\ufffe\ud800\x1b[31m".encode("utf-8", "surrogatepass")
    project.file("garbage", "")
    (project.root / "garbage").write_bytes(garbage)
    for number in range(4):
        project.add(f"test_{number}", f"cat garbage; cat garbage >&2; exit {number}")
    project.run(f"--junitxml={project.junit}", *hosts)
    names = [f"test_{number}" for number in range(4)]
    for parse in (ET.parse, etree.parse):
        testcases = parse(str(project.junit)).getroot().iter("testcase")
        assert sorted(case.get("name") for case in testcases) == names
    suites = junitparser.JUnitXml.fromfile(str(project.junit))
    assert sorted(case.name for suite in suites for case in suite) == names
    assert all("\\x00\\x01\\x02" in case.system_out for suite in suites for case in suite)


def test_properties_say_where_and_how(project: Project) -> None:
    project.add("test_pass", LEAVE_SLEEP)
    project.add("test_fail", "exit 3")
    project.add("test_kill", "kill -9 $$")
    project.file("test_py.py", "def test_one(): pass\n")
    _, cases = project.cases(HOSTS)
    assert cases["test_one"].properties == {}
    for name, exits in {"test_pass": "0", "test_fail": "3"}.items():
        properties = cases[name].properties
        assert (properties["host"], properties["attempt"], properties["exit_status"]) == (
            "popen",
            "1",
            exits,
        )
        assert properties["slot"] in ("0", "1")
    assert cases["test_kill"].properties["signal"] == "9"
    assert "exit_status" not in cases["test_kill"].properties
    assert "sleep" in cases["test_pass"].properties["leftovers"]


def test_times_are_those_of_the_programs(project: Project) -> None:
    project.add("test_a", "sleep 0.3")
    _, cases = project.cases(HOSTS)
    assert 0.3 <= float(cases["test_a"].element.get("time", "0")) < 5


XDIST = ("-p", "xdist", "-n", "2")
MODES = pytest.mark.parametrize("hosts", [(), (HOSTS,), XDIST])


@MODES
def test_classes_have_the_prefix(project: Project, hosts: tuple[str, ...]) -> None:
    project.add("test_top.sh")
    project.add("a/b/test_deep.sh", "exit 1")
    project.add("a/words.t", "#!/bin/sh\necho 1..1; echo not ok 1 - one; exit 1\n")
    project.add("test_skip.sh", "exit 77")
    project.file("test_py.py", "def test_one(): pass\n")
    _, cases = project.cases("--junit-prefix=ci.x", *hosts)
    assert {case.id for case in cases.values()} == {
        ("ci.x", "test_top.sh"), ("ci.x.a.b", "test_deep.sh"), ("ci.x.a.words.t", "one"),
        ("ci.x", "test_skip.sh"), ("ci.x.test_py", "test_one"),
    }  # fmt: skip


def test_an_unknown_place_of_properties_is_a_usage_error(project: Project) -> None:
    project.ini("nosejobs_junit_properties = testsuite")
    project.add("test_a.sh")
    done = project.run()
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    message = "*nosejobs_junit_properties must be case, suite or none, not 'testsuite'*"
    done.stderr.fnmatch_lines([message])


@MODES
@pytest.mark.parametrize("conftest", ["", "def pytest_runtest_call(item): pass\n"])
def test_the_suite_has_each_property_once(
    project: Project, conftest: str, hosts: tuple[str, ...]
) -> None:
    """The hook makes pytest run its whole protocol around the result."""
    project.file("conftest.py", conftest)
    project.ini("nosejobs_junit_properties = suite")
    project.add("test_a.sh", "exit 3")
    project.add("skipped/test_b.sh", "exit 77")
    project.add(
        "test_c.sh", "echo 1..3; echo ok 1 - a; echo 'ok 2 - b # TODO why'; echo ok 3; exit 4"
    )
    project.run(f"--junitxml={project.junit}", *hosts)
    names = [each.get("name", "") for each in ET.parse(project.junit).iter("property")]
    assert sorted(names) == sorted(
        [
            *(
                f"{program}: {name}"
                for program in ("test_a.sh", "skipped/test_b.sh", "test_c.sh")
                for name in ("host", "slot", "attempt", "exit_status")
            ),
            "test_c.sh::b: xpassed",
        ]
    )
    assert list(ET.parse(project.junit).iterfind("testsuite/testcase/properties")) == []


@pytest.mark.parametrize("place", ["suite", "none"])
def test_python_tests_keep_their_properties(project: Project, place: str) -> None:
    project.ini(f"nosejobs_junit_properties = {place}")
    project.add("test_a.sh")
    project.file("test_py.py", "def test_one(record_property): record_property('a', 'b')\n")
    _, cases = project.cases(HOSTS)
    assert cases["test_one"].properties == {"a": "b"}
    assert cases["test_a.sh"].properties == {}


#: Hooks that add a property to an item or to a report, in one line each.
APPENDING_HOOKS = (
    "def pytest_runtest_makereport(item): item.user_properties.append(('a', 'b'))",
    "def pytest_runtest_setup(item): item.user_properties.append(('a', 'b'))",
    "def pytest_runtest_logreport(report): report.user_properties.append(('a', 'b'))",
)
COUNTER = """
import pytest
made = 0

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    global made
    made = max(made, len(report.user_properties))

def pytest_terminal_summary():
    print("\\nmost properties:", made)
"""


@pytest.mark.parametrize(
    ("hook", "hosts"),
    [
        *((hook, hosts) for hook in APPENDING_HOOKS for hosts in ((), (HOSTS,))),
        (APPENDING_HOOKS[0], XDIST),
    ],
)  # fmt: skip
def test_properties_do_not_grow_with_the_number_of_cases(
    project: Project, hook: str, hosts: tuple[str, ...]
) -> None:
    """A hook that adds a property must not make the reports of cases quadratic."""
    project.file("counter.py", COUNTER)
    project.file("conftest.py", f"pytest_plugins = ['counter']\n{hook}\n")
    most, sizes = [], []
    for count in (2, 60):
        lines = f"seq -f 'ok %g' {count}; echo 1..{count}"
        project.add("test_a.sh", lines)
        done = project.run(f"--junitxml={project.junit}", "-p", "no:cacheprovider", *hosts)
        (line,) = [each for each in done.outlines if each.startswith("most properties: ")]
        most.append(int(line.split()[-1]))
        cases = list(ET.parse(project.junit).iter("testcase"))
        assert len(cases) == count
        sizes.append({len(list(case.iter("property"))) for case in cases})
    assert most[0] == most[1] <= 10
    assert sizes[0] == sizes[1]
    assert max(sizes[1]) <= 10


LOGGING = ("no", "log", "system-out", "system-err", "out-err", "all")


@pytest.mark.parametrize(
    ("value", "passing", "hosts"),
    [
        *((value, True, ()) for value in LOGGING),
        ("all", False, ()),
        *((value, passing, (HOSTS,)) for value in ("no", "all") for passing in (True, False)),
        ("all", True, XDIST),
    ],
)  # fmt: skip
def test_logging_is_as_the_documentation_says(
    project: Project, value: str, passing: bool, hosts: tuple[str, ...]
) -> None:
    project.ini(f"junit_logging = {value}\njunit_log_passing_tests = {passing}")
    project.add("test_pass.sh", "echo good-out; echo good-err >&2")
    project.add("test_fail.sh", "echo bad-out; echo bad-err >&2; exit 1")
    tap = "echo 1..3; echo ok 1 - a; echo {} 2 - b; echo ok 3 - c; echo odd >&2"
    project.add("green.t", "#!/bin/sh\n" + tap.format("ok"))
    project.add("red.t", "#!/bin/sh\n" + tap.format("not ok") + "; exit 1")
    project.run(f"--junitxml={project.junit}", *hosts)
    cases = {
        (case.get("classname"), case.get("name")): {
            each.tag: each.text or "" for each in case if each.tag.startswith("system-")
        }
        for case in ET.parse(project.junit).iter("testcase")
    }
    has_out, has_err = value in ("system-out", "out-err", "all"), value in (
        "system-err", "out-err", "all",
    )  # fmt: skip
    for key, out, err in (
        ((".", "test_pass.sh"), "good-out", "good-err"),
        ((".", "test_fail.sh"), "bad-out", "bad-err"),
        (("red.t", "b"), "not ok 2 - b", "odd"),
    ):
        shown = passing or key != (".", "test_pass.sh")
        assert (out in cases[key].get("system-out", "")) == (has_out and shown), key
        assert (err in cases[key].get("system-err", "")) == (has_err and shown), key
    others = [text for key in cases if key[1] in ("a", "c") for text in cases[key].values()]
    assert not [text for text in others if "ok " in text or "odd" in text]


def test_workers_of_xdist_send_output_once(project: Project) -> None:
    pytest.importorskip("xdist")
    long = "word " * 100
    project.add("test_fail.sh", "echo only-out; echo only-err >&2; exit 3")
    project.add("test_error.sh", "echo error-out; exit 99")
    project.add("test_silent.sh", "exit 5")
    project.add("test_time.sh", "# nosejobs: timeout=0.3\necho slow-out; sleep 60")
    project.add("words.t", "#!/bin/sh\necho 1..1; echo not ok 1 - case-out; exit 1\n")
    project.add("long.t", f"#!/bin/sh\necho 1..1; echo 'not ok 1 - {long}'; exit 1\n")
    project.add("test_again.sh", "# nosejobs: retries=1\necho again-out; exit 1")
    _, plain = project.cases()
    plain_output = project.run()
    _, spread = project.cases(*XDIST)
    done = project.run(*XDIST)
    for text in ("only-out", "only-err", "error-out", "slow-out", "case-out", "again-out"):
        counts = [str(each.stdout).count(text) for each in (plain_output, done)]
        assert counts[0] == counts[1] >= 1, text
    assert str(done.stdout).count("--- stdout") == 0
    for name, case in plain.items():
        assert spread[name].facts() == case.facts(), name
    summary = [line for line in done.outlines if line.startswith(("FAILED", "ERROR"))]
    assert sorted(summary) == sorted(
        line for line in plain_output.outlines if line.startswith(("FAILED", "ERROR"))
    )
