"""Tests that plugins and conftest files see pytest's whole protocol, here and on hosts."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from .conftest import Case, Project

MODES = pytest.mark.parametrize("hosts", [(), ("--nosejobs=2*popen",)], ids=["here", "hosts"])
TAP = "printf '1..2\\nok 1 - a\\nnot ok 2 - b\\n'"

#: Writes a line for each hook that pytest calls around a test.
RECORDER = """
import pytest

def record(*words):
    with open("record", "a") as file:
        print(*words, file=file)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    record(item.name, "begin")
    result = yield
    record(item.name, "end")
    return result

@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    record(item.name, "setup")
    return (yield)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    record(item.name, "call")
    try:
        return (yield)
    except AssertionError as error:
        record(item.name, "AssertionError", error)
        raise

@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    record(item.name, "teardown")
    return (yield)

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    record(item.name, report.when, report.outcome)
    return report
"""


def read_record(project: Project) -> dict[str, list[str]]:
    """Return the lines of the recorder by item."""
    lines: dict[str, list[str]] = {}
    for line in (project.root / "record").read_text().splitlines():
        name, _, rest = line.partition(" ")
        lines.setdefault(name, []).append(rest)
    return lines


@MODES
def test_each_program_has_one_whole_protocol(project: Project, hosts: tuple[str, ...]) -> None:
    project.file("conftest.py", RECORDER)
    project.add("test_a.sh", "exit 0")
    project.add("test_b.sh", "exit 3")
    project.add("cases.t", TAP)
    project.run(*hosts)
    begin, end = ["begin", "setup", "setup passed", "call"], ["teardown", "teardown passed", "end"]
    assert read_record(project) == {
        "test_a": [*begin, "call passed", *end],
        "test_b": [*begin, "AssertionError exit 3", "call failed", *end],
        "cases": [*begin, "AssertionError 1 of 2 cases failed", "call failed", *end],
    }


@MODES
def test_a_flaky_program_has_one_protocol(project: Project, hosts: tuple[str, ...]) -> None:
    project.file("conftest.py", RECORDER)
    project.add("test_a.sh", "# nosejobs: retries=2\nmkdir tried || exit 0; exit 1")
    result = project.run(*hosts)
    result.stdout.fnmatch_lines("*1 passed, 1 rerun in*")
    begin, end = ["begin", "setup", "setup passed", "call"], ["teardown", "teardown passed", "end"]
    assert read_record(project) == {"test_a": [*begin, "call passed", *end]}


@MODES
def test_markers_that_skip_have_a_protocol(project: Project, hosts: tuple[str, ...]) -> None:
    marks = (
        "\ndef pytest_collection_modifyitems(items):\n"
        "    items[0].add_marker(pytest.mark.skip(reason='no need'))\n"
        "    items[1].add_marker(pytest.mark.xfail(run=False))\n"
        "    items[2].add_marker(pytest.mark.xfail())\n"
    )
    project.file("conftest.py", RECORDER + marks)
    for name in "abc":
        project.add(f"test_{name}.sh", "touch ran-$0; exit 1")
    result = project.run(*hosts)
    result.stdout.fnmatch_lines("*1 skipped, 2 xfailed in*")
    skipped = ["begin", "setup", "setup skipped", "teardown", "teardown passed", "end"]
    record = read_record(project)
    assert (record["test_a"], record["test_b"]) == (skipped, skipped)
    assert "call skipped" in record["test_c"]


@MODES
def test_a_setup_hook_skips_a_program_before_it_runs(
    project: Project, hosts: tuple[str, ...]
) -> None:
    project.file(
        "conftest.py",
        "import pytest\n"
        "def pytest_addoption(parser):\n"
        "    parser.addoption('-E', dest='stage')\n"
        "def pytest_runtest_setup(item):\n"
        "    print('in setup of', item.name)\n"
        "    with open('setups', 'a') as file: print(item.name, file=file)\n"
        "    stages = [mark.args[0] for mark in item.iter_markers('env')]\n"
        "    if stages and item.config.option.stage not in stages:\n"
        "        pytest.skip('needs ' + stages[0])\n"
        "    if item.name == 'test_c': raise RuntimeError('no room')\n"
        "def pytest_collection_modifyitems(items):\n"
        "    items[0].add_marker(pytest.mark.env('stage1'))\n"
        "    items[1].add_marker(pytest.mark.env('stage2'))\n",
    )
    project.ini("markers = env(name): environment")
    for name in "abc":
        project.add(f"test_{name}.sh", "touch ran-$(basename $0)")
    result = project.run("-E", "stage2", "-rs", *hosts)
    result.assert_outcomes(passed=1, skipped=1, errors=1)
    result.stdout.fnmatch_lines(["*RuntimeError: no room*", "*SKIPPED*needs stage1"])
    assert sorted(each.name for each in project.root.glob("ran-*")) == ["ran-test_b.sh"]
    assert (project.root / "setups").read_text().split() == ["test_a", "test_b", "test_c"]
    assert "in setup of test_a" not in str(result.stdout)  # as pytest captures it
    result.stdout.fnmatch_lines(["*Captured stdout setup*", "in setup of test_c"])


@MODES
def test_a_hook_that_turns_a_failure_into_a_pass_has_the_last_word(
    project: Project, hosts: tuple[str, ...]
) -> None:
    project.wrap_makereport(
        "if report.when == 'call' and report.failed:",
        "    report.outcome, report.wasxfail = 'skipped', 'known'",
    )
    project.add("cases.t", TAP)
    project.add("test_a.sh", "exit 1")
    result = project.run(*hosts)
    assert result.ret == 0
    result.stdout.fnmatch_lines("*2 xfailed in*")


@MODES
def test_what_a_hook_adds_is_on_the_reports_of_cases(
    project: Project, hosts: tuple[str, ...]
) -> None:
    project.wrap_makereport(
        "if report.when == 'call':",
        "    report.extras = ['picture']",
        "    report.user_properties.append(('owner', 'me'))",
        more="def pytest_runtest_logreport(report):\n"
        "    if report.when == 'call':\n"
        "        owners = [value for name, value in report.user_properties if name == 'owner']\n"
        "        with open('seen', 'a') as file:\n"
        "            print(report.nodeid, report.extras, owners, file=file)\n",
    )
    project.add("cases.t", TAP)
    project.run(*hosts)
    assert (project.root / "seen").read_text().splitlines() == [
        "cases.t::a ['picture'] ['me']", "cases.t::b ['picture'] ['me']",
    ]  # fmt: skip


def test_hooks_of_a_folder_concern_its_own_programs(project: Project) -> None:
    project.file("a/conftest.py", RECORDER)
    project.add("a/test_a.sh", "exit 0")
    project.add("b/test_b.sh", "exit 0")
    project.run("--nosejobs=2*popen").assert_outcomes(passed=2)
    assert list(read_record(project)) == ["test_a"]


def test_python_tests_keep_their_fixtures_while_results_arrive(project: Project) -> None:
    project.file("conftest.py", RECORDER)
    project.file(
        "test_p.py",
        "import pytest, time\n"
        "@pytest.fixture(scope='module')\n"
        "def once():\n"
        "    yield [0]\n"
        "    with open('torn-down', 'a') as file: print('once', file=file)\n"
        "@pytest.mark.parametrize('number', range(20))\n"
        "def test_p(once, number):\n"
        "    time.sleep(0.01)\n"
        "    assert once[0] == number\n"
        "    once[0] += 1\n",
    )
    for number in range(20):
        project.add(f"test_{number}.sh", "exit 0")
    project.run("--nosejobs=2*popen").assert_outcomes(passed=40)
    assert (project.root / "torn-down").read_text().splitlines() == ["once"]


def test_verbose_runs_name_a_program_before_it_ends(project: Project) -> None:
    project.add("test_a.sh", 'grep -c "test_a.sh::test_a" output')
    command = [sys.executable, "-m", "pytest", "-v"]
    with open(project.root / "output", "wb") as output:
        assert subprocess.run(command, cwd=project.root, stdout=output).returncode == 0


@MODES
def test_nothing_needs_the_terminal_plugin(project: Project, hosts: tuple[str, ...]) -> None:
    project.add("test_a.sh", "exit 0")
    project.add("test_b.sh", "exit 1")
    project.add("cases.t", TAP)
    result = project.run("-p", "no:terminal", f"--junitxml={project.junit}", *hosts)
    assert result.ret == 1
    assert str(result.stdout) + str(result.stderr) == ""
    rows = [Case(each) for each in ET.parse(project.junit).iter("testcase")]
    assert {row.name: row.outcome for row in rows} == {
        "test_a.sh": "passed", "test_b.sh": "failure", "a": "passed", "b": "failure",
    }  # fmt: skip


@pytest.mark.parametrize("option", ["--fixtures", "--fixtures-per-test", "--cache-show"])
def test_what_only_shows_something_opens_no_host(project: Project, option: str) -> None:
    project.add("test_a.sh", "exit 0")
    result = project.run(option, "--nosejobs=popen//python=/nonexistent/python3")
    assert result.ret == 0


def test_markers_lists_tags(project: Project) -> None:
    project.add("test_a.sh", "# nosejobs: tags=slow,net\nexit 0")
    result = project.run("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.net: marker of shell tests*"])
