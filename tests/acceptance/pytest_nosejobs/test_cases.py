"""Tests of programs whose output names cases, in plain runs and on a host."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.single_host_run import write_program

from .conftest import Project

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "tests" / "unit" / "shell_runner" / "remote" / "formats" / "samples"
MODES = {"plain": (), "hosts": ("--nosejobs=2*popen",)}
each_mode = pytest.mark.parametrize("mode", MODES)

#: Writes each report to a file, so that no test has to parse the terminal output.
RECORDER = """
import json

def pytest_runtest_logreport(report):
    if report.when == "call" or not report.passed:
        outcome = report.outcome if report.when == "call" else f"{report.outcome} {report.when}"
        if hasattr(report, "wasxfail"):
            outcome = {"skipped": "xfailed", "passed": "xpassed"}[outcome]
        longrepr = report.longrepr
        words = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr or "")
        with open("told.jsonl", "a") as file:
            print(json.dumps([report.nodeid, outcome, words]), file=file)
"""


def tap(*lines: str, exit: int = 0) -> str:
    text = "\n".join(lines).replace("'", "'\\''")
    return f"printf '%s\\n' '{text}'\nexit {exit}"


def junit(*cases: str, to: str = '"$XML_OUTPUT_FILE"', exit: int = 0) -> str:
    xml = f"<testsuite name='s' tests='{len(cases)}'>{''.join(cases)}</testsuite>"
    return f"cat >{to} <<'XML'\n{xml}\nXML\nexit {exit}"


PASS, FAIL = (
    "<testcase classname='c' name='good'/>",
    ("<testcase classname='c' name='bad'><failure message='no'>text</failure></testcase>"),
)
ALL_OUTCOMES = tap(
    "TAP version 14", "1..5", "ok 1 - fine", "not ok 2 - broken", "  ---", "  message: 'no two'",
    "  ...", "ok 3 - left # SKIP no net", "not ok 4 - known # TODO later", "ok 5 - new # TODO now",
)  # fmt: skip

#: Script and expected outcomes by program; outcomes are by case, "" for the program itself.
PROGRAMS: dict[str, tuple[str, dict[str, str]]] = {
    "test_outcomes": (
        ALL_OUTCOMES,
        {
            "fine": "passed", "broken": "failed", "left": "skipped", "known": "xfailed",
            "new": "xpassed",
        },
    ),
    "test_green_exit_1": (
        tap("1..1", "ok 1 - a", exit=1), {"a": "passed", "": "failed"},
    ),
    "test_red_exit_0": (tap("1..2", "ok 1 - a", "not ok 2 - b"), {"a": "passed", "b": "failed"}),
    "test_red_exit_77": (
        tap("1..1", "not ok 1 - b", exit=77), {"b": "failed"},
    ),
    "test_green_exit_77": (tap("1..1", "ok 1 - a", exit=77), {"a": "passed", "": "failed"}),
    "test_green_killed": (
        "echo 1..1; echo ok 1 - a; kill -SEGV $$", {"a": "passed", "": "failed"},
    ),
    "test_green_timeout": (
        "# nosejobs: timeout=0.5\necho 1..1; echo ok 1 - a; sleep 60",
        {"a": "passed", "": "failed"},
    ),
    "test_short": (tap("1..3", "ok 1 - a"), {"a": "passed", "": "failed setup"}),
    "test_long": (tap("1..1", "ok 1 - a", "ok 2 - b"),
                  {"a": "passed", "b": "passed", "": "failed setup"}),
    "test_plan_last": (tap("ok 1 - a", "ok 2 - b", "1..2"), {"a": "passed", "b": "passed"}),
    "test_bail": (tap("1..3", "ok 1 - a", "Bail out! disk full"),
                  {"a": "passed", "": "failed setup"}),
    "test_after_bail": (tap("1..1", "ok 1 - goes on"), {"goes on": "passed"}),
    "test_skip_all": (tap("1..0 # SKIP no database"), {"": "skipped"}),
    "test_hidden": (
        tap("1..1", "# Subtest: sub", "    not ok 1 - deep", "    1..1", "ok 1 - sub"),
        {"sub > deep": "failed"},
    ),
    "test_groups": (
        tap("# Subtest: sub", "    ok 1 - deep", "    1..1", "ok 1 - sub", "1..1"),
        {"sub > deep": "passed"},
    ),
    "test_same_names": (
        tap("1..4", "ok 1 - a", "ok 2 - a", "ok 3 - a #2", "not ok 4 - a"),
        {"a": "passed", "a #2": "passed", "a #2 #2": "passed", "a #3": "failed"},
    ),
    "test_odd_names": (
        tap("1..4", "ok 1 - a::b", "ok 2 - c[1]", "not ok 3 - with <&> and \"quotes\"", "ok 4"),
        {"a::b": "passed", "c[1]": "passed", "with <&> and \"quotes\"": "failed",
         "test 4": "passed"},
    ),
    "test_prose": ("echo ok, let us see; echo not ok at all; exit 0", {"": "passed"}),
    "test_prose_fails": ("echo ok; exit 3", {"": "failed"}),
    "test_no_plan": (tap("ok 1 - a"), {"": "passed"}),
    "test_stderr": ("{ echo 1..1; echo not ok 1; } >&2; exit 0", {"": "passed"}),
    "test_xml": (junit(PASS, FAIL, exit=1), {"c > good": "passed", "c > bad": "failed"}),
    "test_xml_green_exit_1": (junit(PASS, exit=1), {"c > good": "passed", "": "failed"}),
    "test_xml_red_exit_0": (junit(PASS, FAIL), {"c > good": "passed", "c > bad": "failed"}),
    "test_xml_other_name": (
        junit(PASS, to='"$TEST_UNDECLARED_OUTPUTS_DIR/TEST-c.xml"'), {"c > good": "passed"},
    ),
    "test_xml_gtest": (
        'case $GTEST_OUTPUT in xml:*) out=${GTEST_OUTPUT#xml:};; *) exit 9;; esac\n'
        + junit(PASS, to='"$out"'),
        {"c > good": "passed"},
    ),
    "test_xml_of_others": ('echo "<html/>" >"$TEST_UNDECLARED_OUTPUTS_DIR/page.xml"',
                           {"": "passed"}),
    "test_xml_link": (
        junit(FAIL, to='"$TMPDIR/elsewhere"').removesuffix("exit 0")
        + 'ln -s "$TMPDIR/elsewhere" "$XML_OUTPUT_FILE"',
        {"": "failed setup"},
    ),
    "test_xml_cut": ('echo "<testsuite><testcase name=\'a\'/><test" >"$XML_OUTPUT_FILE"',
                     {"a": "passed", "": "failed setup"}),
    "test_doctype": (
        "cat >\"$XML_OUTPUT_FILE\" <<'XML'\n<!DOCTYPE testsuite [<!ENTITY b 'bbbb'>]>"
        "<testsuite><testcase name='&b;'/></testsuite>\nXML",
        {"": "failed setup"},
    ),
    "test_tap_and_xml": (junit(PASS).removesuffix("exit 0") + tap("1..1", "ok 1 - a"),
                         {"a": "passed", "c > good": "passed"}),
    "test_node": ("cat node.tap; exit 1", {
        "ok one": "passed", "group > child": "passed", "group > bad": "failed",
        "skip": "skipped", "todo": "xfailed",
    }),
    "silent.t": ("exit 0", {"": "failed setup"}),
    "prose.t": ("echo all is well; exit 0", {"": "failed setup"}),
    "no_plan.t": (tap("ok 1 - a"), {"a": "passed", "": "failed setup"}),
}  # fmt: skip


@dataclass
class RunResult:
    """The results of one run of pytest over all programs."""

    status: int
    terminal: str
    junit: dict[tuple[str, str], str]
    #: Outcome and message by node id.
    reports: dict[str, tuple[str, str]]

    def outcomes_of(self, program: str) -> dict[str, str]:
        """Return the outcomes of a program's cases by name; "" is the program itself."""
        prefix, itself = f"{program}::", f"{program}::{Path(program).stem}"
        return {
            "" if name == itself else name.removeprefix(prefix): outcome
            for name, (outcome, _) in self.reports.items()
            if name.startswith(prefix)
        }


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "pytest_nosejobs.plugin", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


def run_programs(folder: Path, *arguments: str) -> RunResult:
    log = folder / "told.jsonl"
    log.unlink(missing_ok=True)
    done = run_pytest(folder, "--junitxml=junit.xml", *arguments)
    assert log.exists(), done.stdout + done.stderr
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({row[0] for row in rows}) == len(rows)
    testcases = {}
    for element in ET.parse(folder / "junit.xml").iter("testcase"):
        marks = [each.tag for each in element if each.tag in ("failure", "error", "skipped")]
        testcases[element.get("classname", ""), element.get("name", "")] = (
            "+".join(marks) or "passed"
        )
    reports = {name: (outcome, message) for name, outcome, message in rows}
    assert len(testcases) == len(reports)
    return RunResult(done.returncode, done.stdout, testcases, reports)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunResult]:
    folder = tmp_path_factory.mktemp("programs")
    write_program(folder / "pytest.ini", "[pytest]\nnosejobs_grace = 0.2\n", 0o644)
    write_program(folder / "conftest.py", RECORDER, 0o644)
    write_program(folder / "node.tap", (SAMPLES / "node.tap").read_bytes(), 0o644)
    for name, (script, _) in PROGRAMS.items():
        write_program(folder / name, f"#!/bin/sh\n{script}\n")
    return {mode: run_programs(folder, "-v", *arguments) for mode, arguments in MODES.items()}


@each_mode
@pytest.mark.parametrize("program", PROGRAMS)
def test_outcome(runs: dict[str, RunResult], mode: str, program: str) -> None:
    assert runs[mode].outcomes_of(program) == PROGRAMS[program][1]


@each_mode
def test_words(runs: dict[str, RunResult], mode: str) -> None:
    reports = runs[mode].reports
    for nodeid, message in {
        "test_outcomes::broken": "no two",
        "test_outcomes::left": "Skipped: no net",
        "test_green_exit_1::test_green_exit_1": "exit 1, though none of 1 case failed",
        "test_green_exit_77::test_green_exit_77": "exit 77, though none of 1 case failed",
        "test_green_killed::test_green_killed": "killed by SIGSEGV",
        "test_green_timeout::test_green_timeout": "timed out after 0.5 s",
        "test_bail::test_bail": "disk full",
        "test_skip_all::test_skip_all": "Skipped: no database",
        "test_doctype::test_doctype": "DOCTYPE",
        "test_xml::c > bad": "no",
    }.items():
        assert message in reports[nodeid][1], nodeid


@each_mode
def test_junit_has_a_testcase_for_each_case(runs: dict[str, RunResult], mode: str) -> None:
    testcases = runs[mode].junit
    assert testcases["test_outcomes", "fine"] == "passed"
    assert testcases["test_outcomes", "broken"] == "failure"
    assert testcases["test_outcomes", "known"] == "skipped"
    assert testcases["test_hidden.sub", "deep"] == "failure"
    assert testcases["test_xml.c", "good"] == "passed"
    assert testcases["test_short", "a"] == "passed"
    assert testcases[".", "test_short"] == "error"
    assert testcases["test_same_names", "a #3"] == "failure"


@each_mode
def test_terminal_shows_each_case(runs: dict[str, RunResult], mode: str) -> None:
    text = runs[mode].terminal
    assert re.search(r"(?m)^test_outcomes::fine PASSED", text)
    assert re.search(r"(?m)^test_outcomes::known XFAIL", text)
    assert re.search(r"(?m)^FAILED test_hidden::sub > deep - not ok", text)
    assert runs[mode].status == 1


@each_mode
def test_percentages_count_programs(runs: dict[str, RunResult], mode: str) -> None:
    shown = [int(each) for each in re.findall(r"\[ *(\d+)%\]", runs[mode].terminal)]
    assert shown == sorted(shown)
    assert shown[-1] == 100
    assert shown.count(100) <= 3  # the cases of the last program


def test_both_ways_tell_the_same(runs: dict[str, RunResult]) -> None:
    def outcomes(mode: str) -> dict[str, str]:
        return {name: outcome for name, (outcome, _) in runs[mode].reports.items()}

    assert outcomes("plain") == outcomes("hosts")
    assert runs["plain"].junit == runs["hosts"].junit


# -- real programs --------------------------------------------------------------------

PERL = """
use Test::More;
ok 1, 'sum';
subtest deep => sub { ok 1, 'inner'; ok 0, 'wrong'; };
TODO: { local $TODO = 'later'; ok 0, 'todo'; }
SKIP: { skip 'no net', 1; }
done_testing;
"""
PERL_77 = "use Test::More tests => 77; ok 0, $_ for 1 .. 77;"
BATS = """
@test "adds" { [ $((1 + 1)) -eq 2 ]; }
@test "fails" { echo seen; false; }
@test "skips" { skip "no net"; }
"""


@pytest.mark.skipif(not shutil.which("perl"), reason="no perl")
@each_mode
def test_perl(project: Project, mode: str) -> None:
    project.file("conftest.py", RECORDER)
    project.file("more.t", PERL)
    project.file("many.t", PERL_77)
    result = run_programs(project.root, *MODES[mode])
    assert result.outcomes_of("more.t") == {
        "sum": "passed", "deep > inner": "passed", "deep > wrong": "failed",
        "todo": "xfailed", "test 4": "skipped",
    }  # fmt: skip
    assert set(result.outcomes_of("many.t").values()) == {"failed"}
    assert len(result.outcomes_of("many.t")) == 77


@pytest.mark.skipif(not shutil.which("bats"), reason="no bats")
@each_mode
def test_bats(project: Project, mode: str) -> None:
    project.file("conftest.py", RECORDER)
    project.file("real.bats", BATS)
    result = run_programs(project.root, *MODES[mode])
    assert result.outcomes_of("real.bats") == {
        "adds": "passed",
        "fails": "failed",
        "skips": "skipped",
    }


@each_mode
def test_streams_of_other_tools(project: Project, mode: str) -> None:
    """The streams were recorded from go test -json, cargo test (libtest) and subunit."""
    project.file("conftest.py", RECORDER)
    for name, sample, status in (
        ("test_go", "go-ok.json", 1), ("test_nobuild", "go-nobuild.json", 1),
        ("test_rust", "rust-mixed.json", 101), ("test_mixed", "mixed.subunit", 1),
    ):  # fmt: skip
        write_program(project.root / sample, (SAMPLES / sample).read_bytes(), 0o644)
        project.add(name, f"cat {sample}; exit {status}")
    result = run_programs(project.root, *MODES[mode])
    go = result.outcomes_of("test_go")
    assert go["example.com/m/ok > TestOne"] == "passed"
    assert go["example.com/m/ok > TestSub > b/c"] == "failed"
    assert "" not in go
    assert list(result.outcomes_of("test_nobuild").values()) == ["failed"]
    assert result.outcomes_of("test_rust") == {
        "tests::adds": "passed", "tests::fails": "failed", "tests::ignored": "skipped",
        "tests::panics": "passed",
    }  # fmt: skip
    mixed = result.outcomes_of("test_mixed")
    assert "" not in mixed
    assert {"passed", "failed", "skipped"} <= set(mixed.values())


# -- pytest's own options ----------------------------------------------------------------


@pytest.fixture
def three(project: Project) -> Project:
    """Add a program with failed cases, one with a passed case, and one without cases."""
    project.add("test_a", tap("1..3", "ok 1 - x", "not ok 2 - y::z [1]", "not ok 3 - w"))
    project.add("test_b", tap("1..1", "ok 1 - x"))
    project.add("test_c", "exit 0")
    return project


@each_mode
def test_last_failed_reruns_the_program_until_it_passes(three: Project, mode: str) -> None:
    three.run(*MODES[mode]).assert_outcomes(failed=2, passed=3)
    three.run("--lf", *MODES[mode]).assert_outcomes(failed=2, passed=1)
    three.add("test_a", tap("1..2", "ok 1 - x", "ok 2 - y::z [1]"))
    three.run("--lf", *MODES[mode]).assert_outcomes(passed=2)
    # No failure is recorded, so all programs run.
    three.run("--lf", *MODES[mode]).assert_outcomes(passed=4)


@each_mode
def test_a_pasted_case_runs_its_program(three: Project, mode: str) -> None:
    for pasted in ("test_a::y::z [1]", "test_a::x", "test_a"):
        three.run(pasted, *MODES[mode]).assert_outcomes(failed=2, passed=1)
    three.run("test_a::x", "test_a::w", *MODES[mode]).assert_outcomes(failed=2, passed=1)
    three.run("test_b::x", "test_c", *MODES[mode]).assert_outcomes(passed=2)


def test_files_with_colons_and_brackets_can_be_pasted(project: Project) -> None:
    odd = ("d[1]/test_[f].sh", "d::q/test_g::h.sh", "d::q/e/test_i.sh")
    for name in ("test_a::b.sh", "test_c[1].sh", "test_d.sh", "sub/test_e::[x].sh", *odd):
        project.add(name, tap("1..1", "ok 1 - one"))
    for pasted in ("test_a::b.sh", "test_a::b.sh::one", "test_c[1].sh", "test_c[1].sh::one",
                   "sub/test_e::[x].sh", *odd):  # fmt: skip
        done = project.run(pasted, "-v")
        done.assert_outcomes(passed=1)
        assert f"{pasted.removesuffix('::one')}::one PASSED" in done.stdout.str()
    project.run("test_a::b.sh", "test_d.sh").assert_outcomes(passed=2)
    project.run(*odd).assert_outcomes(passed=3)
    project.run(".", "sub/test_e::[x].sh").assert_outcomes(passed=7)


@each_mode
def test_k_knows_programs(three: Project, mode: str) -> None:
    three.run("-k", "test_b or test_c", *MODES[mode]).assert_outcomes(passed=2, deselected=1)


def test_a_failing_case_stops_like_a_failing_test(three: Project) -> None:
    done = three.run("-x")
    done.assert_outcomes(failed=2, passed=1)  # what the program has said is told
    assert "stopping after 2 failures" in done.stdout.str()
    three.run("--maxfail=3").assert_outcomes(failed=2, passed=3)
    three.add("test_a0", "sleep 0.3; exit 1")
    done = three.run("-x", "--nosejobs=popen", "-v")
    assert "stopping after" in done.stdout.str()


def test_durations_know_cases(project: Project) -> None:
    project.add("test_time", tap("1..1", "ok 1 - slow # time=1234ms"))
    assert re.search(r"1\.23s call +test_time::slow", project.run("--durations=3").stdout.str())


def test_a_failing_teardown_is_not_lost_behind_cases(project: Project) -> None:
    project.file("conftest.py", "import pytest\n\n"
        "@pytest.hookimpl(wrapper=True)\ndef pytest_runtest_teardown(item):\n"
        "    yield\n    raise RuntimeError('late trouble')\n")  # fmt: skip
    project.add("test_a", tap("1..1", "ok 1 - x"))
    done = project.run()
    done.assert_outcomes(passed=1, errors=1)
    assert "late trouble" in done.stdout.str()


@each_mode
def test_properties_stand_once(project: Project, mode: str) -> None:
    project.add("test_a", tap("1..1", "ok 1 - x"))
    project.run(f"--junitxml={project.junit}", *MODES[mode])
    names = [each.get("name") for each in ET.parse(project.junit).iter("property")]
    assert len(names) == len(set(names))
    assert "host" in names


@pytest.mark.parametrize(("mode", "count"), [("plain", 10_000), ("hosts", 20_000)])
def test_very_many_cases(project: Project, mode: str, count: int) -> None:
    project.add("test_many", f"echo 1..{count}; seq {count} | sed 's/^/ok /; 7777s/ok/not ok/'")
    done = run_pytest(project.root, "-q", *MODES[mode])
    assert f"1 failed, {count - 1} passed" in done.stdout


def test_workers_of_xdist_send_cases_too(three: Project) -> None:
    pytest.importorskip("xdist")
    three.file("conftest.py", RECORDER)
    plain = run_programs(three.root)
    xdist = ("-p", "xdist", "-n", "2")
    (three.root / "told.jsonl").unlink()
    three.file("conftest.py", "")
    done = run_pytest(three.root, "-v", "--junitxml=junit.xml", *xdist)
    assert "2 failed, 3 passed" in done.stdout
    assert "test_a::y::z [1]" in done.stdout
    testcases = {
        (each.get("classname", ""), each.get("name", ""))
        for each in ET.parse(three.root / "junit.xml").iter("testcase")
    }
    assert testcases == set(plain.junit)
    shown = [int(each) for each in re.findall(r"\[ *(\d+)%\]", done.stdout)]
    assert max(shown) == 100
    assert "2 failed, 1 passed" in run_pytest(three.root, "--lf", *xdist).stdout
    three.add("test_a", tap("1..1", "ok 1 - x"))
    assert "1 passed" in run_pytest(three.root, "--lf", *xdist).stdout
    assert "3 passed" in run_pytest(three.root, "--lf", *xdist).stdout


# -- formats of plug-ins --------------------------------------------------------------------

#: The page of the manual, which contains an example of a reader in 20 lines.
PAGE = (ROOT / "docs" / "outputs.md").read_text()


def from_manual(name: str) -> str:
    match = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert match
    return match[1]


@each_mode
def test_the_reader_of_the_manual(project: Project, mode: str) -> None:
    reader = from_manual("dejagnu.py")
    assert len([line for line in reader.splitlines() if line]) <= 20
    project.file("dejagnu.py", reader)
    project.file("conftest.py", from_manual("conftest.py") + RECORDER)
    project.add(
        "test_a.exp", "printf 'Running\\nPASS: a b\\nFA'; sleep 0.1; printf 'IL: c\\nXFAIL: d'"
    )
    project.add("test_b.exp", "echo nothing")
    project.add("test_c.sh", "echo PASS: not asked")
    project.add("test_d.sh", tap("1..1", "ok 1 - still"))
    result = run_programs(project.root, *MODES[mode])
    assert result.outcomes_of("test_a.exp") == {"a b": "passed", "c": "failed", "d": "xfailed"}
    assert result.outcomes_of("test_b.exp") == {"": "failed setup"}
    assert result.outcomes_of("test_c.sh") == {"": "passed"}
    assert result.outcomes_of("test_d.sh") == {"still": "passed"}


READER = '''
from shell_runner.remote.protocol.model import FAILED, PASSED, Case, ParsedOutput

NAME = "marks"


class Reader:
    """Lines that start with + or -, below a line "MARKS"."""

    def __init__(self, forced=False):
        self.refused = False
        self.text = b""

    def feed(self, data):
        self.text += data
        self.refused = not (b"MARKS" + self.text).startswith(b"MARKS") or (
            len(self.text) > 5 and not self.text.startswith(b"MARKS")
        )

    def close(self):
        lines = self.text.decode("utf-8", "replace").splitlines()
        if lines[:1] != ["MARKS"]:
            return None
        cases = [Case(x[1:], PASSED if x[0] == "+" else FAILED) for x in lines[1:]]
        return ParsedOutput(NAME, cases)
'''
HOOK = "import marks\n\ndef pytest_nosejobs_formats():\n    return [marks]\n"


@each_mode
def test_a_plug_ins_reader(project: Project, mode: str) -> None:
    project.ini("pythonpath = .")
    project.file("marks.py", READER)
    project.file("conftest.py", HOOK + RECORDER)
    project.add("test_marks", "printf 'MARKS\\n+good\\n-bad\\n'")
    project.add("test_tap", tap("1..1", "ok 1 - still"))
    result = run_programs(project.root, *MODES[mode])
    assert result.outcomes_of("test_marks") == {"good": "passed", "bad": "failed"}
    assert result.outcomes_of("test_tap") == {"still": "passed"}


@each_mode
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.text += data", "1 / 0"),
        ("return None", "1 / 0"),
        ("self.refused = False", "1 / 0"),
        ("FAILED)", "'broken')"),
        ("ParsedOutput(NAME, ", "ParsedOutput(NAME, 1, "),
        ("x[1:]", "x[1:].encode()"),
    ],
)
def test_a_reader_that_fails_is_the_error_of_its_test(
    project: Project, mode: str, old: str, new: str
) -> None:
    assert old in READER
    project.ini("pythonpath = .")
    project.file("marks.py", READER.replace(old, new))
    project.file("conftest.py", HOOK + RECORDER)
    project.add("test_marks", "printf 'MARKS\\n-bad\\n'" if old != "return None" else "echo hi")
    project.add("test_silent", "exit 0")
    result = run_programs(project.root, *MODES[mode])
    outcome, message = result.reports["test_marks::test_marks"]
    assert outcome == "failed setup"
    assert message.startswith("the reader of its output failed: ")
    assert result.outcomes_of("test_silent") == {"": "passed"}


@each_mode
def test_a_reader_that_cannot_be_loaded_on_the_host(project: Project, mode: str) -> None:
    project.ini("pythonpath = .")
    project.file("only_here.py", "")
    project.file("marks.py", "import only_here\n" + READER)
    project.file("conftest.py", HOOK + RECORDER)
    project.add("test_says", "echo hi")
    project.add("test_silent", "exit 0")
    result = run_programs(project.root, *MODES[mode])
    assert "only_here" in result.reports["test_says::test_says"][1]
    assert result.outcomes_of("test_says") == {"": "failed setup"}
    assert result.outcomes_of("test_silent") == {"": "passed"}


@each_mode
def test_names_with_brackets_and_all_lines_of_a_reason_are_shown_as_they_are(
    project: Project, mode: str
) -> None:
    names = ["[a] b", "c[1]", "d[", "e::[f", "g]"]
    project.add("test_a.sh", tap("1..5", *(f"not ok {n} - {e}" for n, e in enumerate(names, 1))))
    project.add("test_s.sh", "printf 'needs docker:\\n  not there\\n'\nexit 77")
    done = project.run("-rfs", "--tb=no", *MODES[mode])
    failed = [line for line in done.outlines if line.startswith("FAILED ")]
    assert sorted(failed) == sorted(f"FAILED test_a.sh::{name} - not ok" for name in names)
    done.stdout.fnmatch_lines(["SKIPPED [[]1] *: needs docker:", "  not there"])
    _, cases = project.cases(*MODES[mode])
    assert {*names, "test_s.sh"} <= {*cases}
    assert cases["test_s.sh"].message == "needs docker:\n  not there"


@each_mode
def test_xpassed_cases_and_slashes_in_groups_are_seen_in_junit(project: Project, mode: str) -> None:
    lines = ["# Subtest: GET /a/b", "    ok 1 - x # TODO later", "    1..1", "ok 1 - GET /a/b"]
    project.add("sub/test_a.t", tap("TAP version 14", "1..1", *lines))
    _, cases = project.cases(*MODES[mode])
    (case,) = cases.values()
    assert case.id == ("sub.test_a.t.GET /a/b", "x")
    assert case.properties["xpassed"] == "later"
    assert case.outcome == "passed"
