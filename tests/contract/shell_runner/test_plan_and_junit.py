"""Tests that a live run with pytest and a job report the same tests and the same JUnit XML."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from _pytest import junitxml

from shell_runner.collection.plan import make_plan
from shell_runner.remote.protocol.model import Execution, Problem
from shell_runner.reporting import junit
from tests.helpers import junit_compare
from tests.helpers.node_ids import get_program_id
from tests.helpers.single_host_run import LEAVE_SLEEP, write_program

HERE = Path(__file__).parents[3]
HOST = "lab"
#: Fails twice and passes when it runs for the third time.
THIRD = "echo x >> $0.runs; echo run; [ $(wc -l < $0.runs) -ge 3 ]"
#: Prints the cases of the first, the second or the third attempt.
ATTEMPTS = """echo x >> $0.runs; echo 1..2
case $(wc -l < $0.runs) in 1) echo '{}';; 2) echo '{}';; *) echo '{}';; esac
"""
XML = """cat > "$XML_OUTPUT_FILE" <<'END'
<testsuite name="s"><testcase name="fine" classname="c" time="0.25">
<properties><property name="build" value="7 &lt; 8"/></properties></testcase>
<testcase name="broken" classname="c"><failure message="no">why
not</failure></testcase>
<testcase name="error" classname="c"><error message="crash"/></testcase>
<testcase name="off" classname="c"><skipped message="not here"/></testcase></testsuite>
END
"""
#: Lines that are longer than a maximum that pytest may have for messages.
LONG = "word " * (200 if hasattr(junitxml, "shorten_message") else 20)

TREE: dict[str, str | bytes] = {
    "test_pass": "echo fine; echo odd >&2",
    "test_fail.sh": "echo out; echo err >&2; exit 3",
    "test_silent": "exit 1",
    "test_skip": "echo one; echo no docker; exit 77",
    "test_skip_silent": "exit 77",
    "test_error": "exit 99",
    "test_signal": "kill -SEGV $$",
    "test_timeout": "# nosejobs: timeout=0.3\necho before; sleep 60",
    "test_leaves": f"{LEAVE_SLEEP}; exit 1",
    "test_leaves_green": f"# nosejobs: leftovers=fail\n{LEAVE_SLEEP}; exit 0",
    "test_leaves_quietly": f"{LEAVE_SLEEP}; exit 0",
    "test_no_interpreter": b"#!/no/such/thing\n",
    "test_cr": b"#!/bin/sh\r\nexit 0\r\n",
    "test_foreign": b"\x7fELF\x02\x01\x01" + bytes(100),
    "test_bytes": "printf '\\000\\377\\033[31mred\\033[0m\\007]]>&amp;\\r\\n'; exit 1",
    "test_bytes_skip": "printf 'no \\377\\001 here\\n'; exit 77",
    "test_many_lines": "seq 200; exit 1",
    "test_long_line": "head -c 9000 /dev/zero | tr '\\0' x; exit 1",
    "test_<&>\".sh": "echo '<&>\"]]>'; exit 1",
    "test_a\nb.sh": "exit 1",
    "test_\udcff.sh": "exit 2",
    "test_x::y[1].sh": "exit 1",
    "sub dir/deep/net_test.sh": "# nosejobs: tags=net\nexit 4",
    "sub dir/00.t": b"print qq(1..2\\nok 1 - one\\nnot ok 2 - two\\n# why\\n); exit 1",
    "tap/test_mixed": "cat <<'END'\nTAP version 13\n1..8\nok 1 - plain\nnot ok 2 - red\n  ---\n"
    "  message: broke\n  ---\nok 3 - gone # SKIP no net\nnot ok 4 - later # TODO soon\n"
    "ok 5 - already # TODO\nok 6 - plain\nnot ok 7\nnot ok 8 - " + LONG + "\nEND\nexit 1",
    "tap/test_long": "cat <<'END'\n1..3\nnot ok 1 - a\n  ---\n  message: " + LONG + "\n  ...\n"
    f"not ok 2 - b # TODO {LONG}\nok 3 - c # SKIP {LONG}\nEND\nexit 1",
    "test_long": f"echo '{LONG}'; exit 77",
    "tap/test_green": "echo 1..2; echo ok 1; echo ok 2",
    "tap/test_lies": "echo 1..1; echo ok 1; exit 2",
    "tap/test_short": "echo 1..3; echo ok 1",
    "tap/test_skips": "echo 1..0 '# SKIP nothing to do'",
    "tap/test_odd": "printf '1..2\\nok 1 - a\\001\\377b\\nnot ok 2 - c\\033[1md # e\\n'; exit 1",
    "tap/test_killed": "echo 1..2; echo ok 1; kill -9 $$",
    "xml/test_junit": XML + "exit 1",
    "xml/test_junit_lies": XML + "exit 0",
    "files/test_writes": 'cd "$TEST_UNDECLARED_OUTPUTS_DIR"; mkdir d; echo 1 > d/a; echo 2 > b',
    "files/test_writes_red": 'cd "$TEST_UNDECLARED_OUTPUTS_DIR"; seq 12 | xargs touch; exit 1',
    "files/test_writes_tap": 'echo 1 > "$TEST_UNDECLARED_OUTPUTS_DIR/x"; echo 1..2; echo ok 1; '
    "echo not ok 2; exit 1",
    "files/test_writes_odd": "cd \"$TEST_UNDECLARED_OUTPUTS_DIR\"; touch \"$(printf 'a\\nb')\"; "
    "exit 1",
    "again/test_flaky": f"# nosejobs: retries=3\n{THIRD}",
    "again/test_red": "# nosejobs: retries=1\necho red; exit 5",
    "again/test_error": "# nosejobs: retries=1\nexit 99",
    "again/test_tap": "# nosejobs: retries=2\necho x >> $0.runs; echo 1..2; echo ok 1; "
    "[ $(wc -l < $0.runs) -ge 2 ] || echo not ok 2; echo ok 2",
    "again/test_cases": "# nosejobs: retries=2\n" + ATTEMPTS.format(
        "ok 1 - a\nnot ok 2 - b", "not ok 1 - a\nok 2 - b", "ok 1 - a\nok 2 - b"),
    "again/test_red_case": "# nosejobs: retries=2\n" + ATTEMPTS.format(
        "not ok 1 - a\nnot ok 2 - b", "not ok 1 - a\nnot ok 2 - b", "ok 1 - a\nnot ok 2 - b"),
    "again/test_other_cases": "# nosejobs: retries=2\n" + ATTEMPTS.format(
        "not ok 1 - gone\nok 2 - b", "ok 1 - a", "ok 1 - a\nok 2 - b"),
    "again/test_lies": "# nosejobs: retries=2\n" + ATTEMPTS.format(
        "ok 1 - a\nnot ok 2 - b", "ok 1 - a", "ok 1 - a"),
    "again/test_writes": "# nosejobs: retries=1\necho 1 > \"$TEST_UNDECLARED_OUTPUTS_DIR/x\"; "
    "exit 1",
    "test_repeat": "# nosejobs: repeat=3\nexit 1",
    "needs/test_docker": "# nosejobs: requires=docker\nexit 1",
    "needs/test_net": "# nosejobs: requires=net\nexit 1",
    "needs/test_more": "# nosejobs: requires=docker,gpu repeat=2\nexit 1",
    "needs/test_some": "# nosejobs: requires=net,gpu\nexit 1",
    "root/test_cwd": "# nosejobs: cwd=root env=A=1\n[ -f test_pass ] && exit $A",
    "runtest": 'echo "${1##*/}" "$2" $#; [ "$3" = "$TEST_SRCDIR" ] && . "$1"',
    "wrap/test_wrapped": "exit 6",
    "wrap/test_preset": "# nosejobs: preset=perl\n[ -f test_pass ] && [ \"$HARNESS_ACTIVE\" = 1 ] "
    '&& case "$PERL5LIB" in "$TEST_SRCDIR/lib:"*) exit 3;; esac',
    "wrap/test_no_wrapper": "# nosejobs: run=no-such-wrapper\nexit 0",
}  # fmt: skip

CONFIG = """
[tests]
tags = ["all"]
[hosts.lab]
spec = "popen"
labels = ["net"]
[tests."tap/*"]
tags = ["tap"]
retries = 0
[tests."wrap/*"]
run = "./runtest {file}"
args = ["a b", "{root}"]
"""


@dataclass
class Both:
    """Two copies of a tree: one that pytest runs, one that a job runs."""

    live: Path
    job: Path


def make(root: Path) -> Path:
    """Create the tree of tests."""
    for name, text in TREE.items():
        if isinstance(text, str):
            text = f"#!/bin/sh\n{text}\n"
        write_program(root / name, text, 0o755)
    write_program(root / "nosejobs.toml", CONFIG, 0o644)
    write_program(root / "pytest.ini", "[pytest]\nnosejobs_grace = 0.2\n", 0o644)
    return root


def run_pytest(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with no plugin but ours."""
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "pytest", "-p", "pytest_nosejobs.plugin", "-q"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", *arguments], cwd=root, env=env, timeout=120,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="surrogateescape",
    )  # fmt: skip


def run_job(root: Path, folder: Path, *options: str) -> None:
    """Run a job as a user does; the host keeps its state in ``folder``.

    ``options``: more options of the harvest.
    """
    file = folder / "job.toml"
    file.write_text('tests = "job"\ngrace = 0.2\nslots = 2\n')
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        env[name] = str(folder / name.lower())
    command = [sys.executable, "-m", "shell_runner.cli.main", "job"]
    calm = [*command, "limits", f"--host={HOST}", "linger=0"]
    subprocess.run(calm, cwd=root, env=env, timeout=60, check=True, capture_output=True)
    submit = ["submit", f"--host={HOST}", f"--config={file}", "--wait"]
    outputs = [f"--out={folder / 'job.zip'}", "--junitxml=../job.xml", "--into=../out"]
    done = subprocess.run(
        [*command, *submit, *outputs, *options], cwd=root, env=env, timeout=120,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="surrogateescape",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("both")
    live, root = make(folder / "live"), make(folder / "job")
    arguments = [f"--nosejobs=2*{HOST}", "--nosejobs-artifacts=../out", "--junitxml=../live.xml"]
    done = run_pytest(live, *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    (folder / "out").rename(folder / "out of live")
    run_job(root, folder)
    return Both(folder / "live", folder / "job")


def rows(root: Path) -> dict[tuple[str, str], list[junit_compare.Row]]:
    """Return the testcases with file names only.

    A live run has a folder for each test name, a job one for each test number.
    """
    testcases = junit_compare.read_testcases(root.with_suffix(".xml"), root)
    return {key: [_without_folders(row) for row in made] for key, made in testcases.items()}


def _without_folders(row: junit_compare.Row) -> junit_compare.Row:
    def shorten(text: str) -> str:
        folder = r"\.\./out/(?:artifacts/\d+|(?:files|again|xml)/\w+?)(\.attempt-\d+)?/"
        return re.sub(folder, r"OUT\1/", text)

    return replace(row, elements=tuple((tag, at, shorten(text)) for tag, at, text in row.elements))


def test_both_reports_have_the_same_testcases(both: Both) -> None:
    live, job = rows(both.live), rows(both.job)
    assert live.keys() == job.keys()
    for key, expected in live.items():
        assert job[key] == expected, key


def test_the_tree_has_all_that_a_testcase_can_be(both: Both) -> None:
    """Guarantee that the comparison covers every outcome."""
    made = [row for found in rows(both.live).values() for row in found]
    tags = {tag for row in made for tag, _, _ in row.elements}
    assert tags == {
        "failure", "error", "skipped", "system-out", "flakyFailure", "flakyError",
        "rerunFailure", "rerunError",
    }  # fmt: skip
    names = {name for row in made for name, _ in row.properties}
    assert names == {
        "host", "attempt", "exit_status", "signal", "leftovers", "repeat", "flaky", "build",
        "xpassed",
    }  # fmt: skip
    kinds = {dict(attributes).get("type") for row in made for _, attributes, _ in row.elements}
    assert {"pytest.skip", "pytest.xfail"} <= kinds


def test_files_are_where_the_report_of_a_job_says(both: Both) -> None:
    text = both.job.with_suffix(".xml").read_text()
    names = re.findall(r"\[\[ATTACHMENT\|(.+?)\]\]", text)
    missing = [name for name in names if not (both.job / name).is_file()]
    # A name with a newline is printed on one line.
    assert [name.rpartition("/")[2] for name in missing] == [r"a\nb"]
    assert len(names) > 10


def test_both_reports_have_the_same_suite(both: Both) -> None:
    live, job = (
        junit_compare.read_suite(each.with_suffix(".xml")) for each in (both.live, both.job)
    )
    assert job.keys() == live.keys()
    assert (job.pop("hostname"), live.pop("hostname")) == (platform.node(), platform.node())
    assert abs(stamp(job.pop("timestamp")) - stamp(live.pop("timestamp"))) < 600
    assert 0 < float(job.pop("time")) < 600
    assert 0 < float(live.pop("time")) < 600
    assert job == live


def stamp(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


def test_times_are_those_of_the_programs(both: Both) -> None:
    live, job = (
        junit_compare.read_durations(each.with_suffix(".xml")) for each in (both.live, both.job)
    )
    assert {key: len(each) for key, each in job.items()} == {
        key: len(each) for key, each in live.items()
    }
    assert 0.3 <= job[".", "test_timeout"][0] < 10
    assert job["xml.test_junit.c", "fine"][0] >= 0.25
    assert job["needs", "test_docker"] == live["needs", "test_docker"] == [0.0]


def test_both_reports_are_equal_if_unmet_requirements_are_errors(tmp_path: Path) -> None:
    live = tmp_path / "live"
    write_program(live / "test_a.sh", "#!/bin/sh\n# nosejobs: requires=docker repeat=2\n", 0o755)
    write_program(live / "pytest.ini", "[pytest]\nnosejobs_requires = error\n", 0o644)
    run_pytest(live, "--nosejobs=popen", "--junitxml=../live.xml")
    tests = make_plan(live, host="popen").tests
    executions = {
        test.test.id: [
            Execution(test.test.id, problem=Problem.UNMET_REQUIREMENT, detail=test.unmet)
        ]
        for test in tests
    }
    options = junit.ReportOptions(requires="error")
    junit.write_junit(tmp_path / "job.xml", "pytest", "popen", tests, executions, options)
    testcases = junit_compare.read_testcases(tmp_path / "job.xml")
    assert testcases == junit_compare.read_testcases(tmp_path / "live.xml")
    assert [row.outcome for each in testcases.values() for row in each] == ["error", "error"]


# -- collection -------------------------------------------------------------------

FILES = {
    "test_a.sh": 0o755, "b_test": 0o755, "z.t": 0o644, "y.bats": 0o644, "test_no.sh": 0o644,
    "run.sh": 0o755, "test_data.json": 0o755, "test_helper.sh": 0o755, "test_py.py": 0o755,
    "py_test.py": 0o644, "conftest.py": 0o644, "other.py": 0o644, "plain": 0o644,
    "sub/test_b.sh": 0o755, "sub/__init__.py": 0o644, "sub/test_a/test_c": 0o755,
    "sub-x/test_b.sh": 0o755, "Sub/test_b.sh": 0o755, "sub/run.sh": 0o755,
    "build/test_x.sh": 0o755, "dist/test_x.sh": 0o755, ".hid/test_x.sh": 0o755,
    "node_modules/test_x.sh": 0o755, "venv/test_x.sh": 0o755, "a.egg/test_x.sh": 0o755,
    "env/pyvenv.cfg": 0o644, "env/test_x.sh": 0o755, "conda/conda-meta/history": 0o644,
    "conda/test_x.sh": 0o755, "__pycache__/test_x.sh": 0o755, "CVS/test_x": 0o755,
    ".test_hid.sh": 0o755, "é/test_\udcff": 0o755, "sub/test_x::y": 0o755, "test_[1]": 0o755,
    "twice/test_r": 0o755, "sub/build/inner/test_x": 0o755,
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    for name, mode in FILES.items():
        write_program(root / name, "" if name.endswith(".py") else "#!/bin/sh\n", mode)
    write_program(root / "twice/test_r", "#!/bin/sh\n# nosejobs: repeat=3\n")
    write_program(root / "bad/test_meta.sh", "#!/bin/sh\n# nosejobs: timeuot=3\n")
    write_program(root / "pytest.ini", "[pytest]\n", 0o644)
    (root / "linked").symlink_to("sub-x")
    (root / "test_gone").symlink_to("nowhere")
    (root / "test_link").symlink_to("sub/run.sh")
    os.mkfifo(root / "test_fifo")
    return root


def collected(root: Path, *names: str) -> tuple[list[str], str]:
    """Return the ids of the programs that pytest collects, and its output."""
    done = run_pytest(root, "--collect-only", "--continue-on-collection-errors", *names)
    lines = done.stdout.split("\n\n")[0].splitlines()
    return [get_program_id(line) for line in lines if ".py::" not in line], done.stdout


def test_plan_and_pytest_find_the_same_tests_in_the_same_order(files: Path) -> None:
    expected, printed = collected(files)
    plan = make_plan(files)
    assert [test.nodeid for test in plan.tests] == expected
    assert [test.test.id for test in plan.tests] == list(range(len(expected)))
    assert "linked/test_b.sh" in expected
    assert "twice/test_r::repeat-3-of-3" in expected
    assert not [each for each in expected if "test_x" in each and "::" not in each]
    assert len(plan.invalid_tests) == 2
    for message in plan.invalid_tests:
        assert message in printed
    assert plan.python_tests == ("py_test.py", "test_py.py")


@pytest.mark.parametrize(
    "names",
    [
        ["sub"], ["run.sh"], ["test_a.sh", "sub/test_a"], ["sub", "sub"], ["build"],
        ["sub/build/inner"], ["twice/test_r::repeat-2-of-3"], ["sub/test_x::y"], ["./sub//"],
        ["twice/test_r", "sub-x/test_b.sh"], ["test_no.sh"], ["plain"], ["test_link"],
        [".hid"], ["env/test_x.sh"],
    ],
)  # fmt: skip
def test_names_select_the_same_tests_as_in_pytest(files: Path, names: list[str]) -> None:
    expected, printed = collected(files, *names)
    plan = make_plan(files, names)
    expected = expected if plan.tests else []  # its first words are those of errors
    assert [test.nodeid for test in plan.tests] == expected
    assert plan.tests or plan.invalid_tests
    for message in plan.invalid_tests:
        assert message in printed


def test_the_tests_are_those_of_a_live_run(both: Both) -> None:
    """The tests of a plan equal those of pytest's own collection."""
    script = both.live.parent / "ask.py"
    script.write_text(ASK)
    out = both.live.parent / "asked.json"
    env = {**os.environ, "PYTHONPATH": f"{HERE}:{script.parent}", "ASKED": str(out)}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "pytest_nosejobs.plugin", "-p", "ask"]
    subprocess.run([*command, "-q", "--collect-only"], cwd=both.job, env=env, timeout=60,
                   capture_output=True, check=True)  # fmt: skip
    sent = json.loads(out.read_text())
    planned = [[test.nodeid, test.test, test.retries] for test in make_plan(both.job).tests]
    assert json.loads(json.dumps(planned)) == sent


ASK = """
import json, os
def pytest_collection_finish(session):
    rows = [[item.program_id, item.make_test(number), item.metadata.retries]
            for number, item in enumerate(session.items)]
    open(os.environ["ASKED"], "w").write(json.dumps(rows))
"""
