"""Tests of pytest's own options, which behave as its users expect."""

import re

import pytest

from .conftest import Project

HOSTS = "--nosejobs=4*popen"


@pytest.mark.parametrize(("option", "count"), [("-x", 1), ("--maxfail=3", 3)])
def test_failures_stop_the_run_at_the_exact_count(
    project: Project, option: str, count: int
) -> None:
    for number in range(40):
        project.add(f"test_{number:02}", "exit 1")
    result = project.run("--nosejobs=4*popen,4*popen", option)
    assert result.ret == 1
    assert result.parseoutcomes() == {"failed": count}
    result.stdout.fnmatch_lines([f"*stopping after {count} failures*"])


def test_x_stops_tests_that_still_run(project: Project) -> None:
    project.add("test_a", "exit 1")
    for number in range(3):
        project.add(f"test_sleep_{number}", "sleep 60")
    result = project.run(HOSTS, "-x")
    assert result.parseoutcomes() == {"failed": 1}
    assert result.duration < 30


def test_lf_runs_the_failed_ones_and_ff_puts_them_first(project: Project) -> None:
    for number in range(6):
        project.add(f"test_{number}", f"sleep 0.{6 - number}; exit {number // 4}")
    assert project.run(HOSTS).parseoutcomes() == {"passed": 4, "failed": 2}
    assert project.run(HOSTS, "--lf").parseoutcomes() == {"failed": 2, "deselected": 4}
    result = project.run("--nosejobs=popen", "--ff", "-v")
    names = re.findall(r"^(test_\d)::", result.stdout.str(), re.MULTILINE)
    assert set(names[:2]) == {"test_4", "test_5"}
    assert len(names) == 6
    for number in (4, 5):
        project.add(f"test_{number}", "exit 0")
    assert project.run(HOSTS, "--lf").parseoutcomes() == {"passed": 2, "deselected": 4}


def test_the_longest_go_first_when_history_is_known(project: Project) -> None:
    for name, seconds in {"a": 0.0, "b": 0.2, "c": 0.4, "d": 0.1}.items():
        project.add(f"test_{name}", f"sleep {seconds}")
    project.run(HOSTS)
    result = project.run("--nosejobs=popen", "-v")
    names = re.findall(r"^test_(\w)::", result.stdout.str(), re.MULTILINE)
    assert names[:2] == ["c", "b"]


def test_durations_are_those_of_the_programs(project: Project) -> None:
    project.add("test_slow", "sleep 0.5")
    project.add("test_fast")
    result = project.run(HOSTS, "--durations=1")
    result.stdout.re_match_lines([r"0\.[5-9]\d*s call +test_slow"])


def test_v_shows_the_host_and_q_shows_none(project: Project) -> None:
    project.file("nosejobs.toml", '[hosts.alpha]\nspec = "2*popen"\n')
    project.add("test_a.sh")
    project.add("test_b.sh", "exit 1")
    project.add("test_c.sh", "exit 99")
    project.add("test_d.sh", "exit 77")
    lines = project.run("--nosejobs=alpha", "-v").stdout.str()
    for name, word in {"a": "PASSED", "b": "FAILED", "c": "ERROR", "d": "SKIPPED"}.items():
        assert re.search(rf"^test_{name}\.sh::test_{name} {word} \[alpha\]", lines, re.MULTILINE), (
            lines
        )
    assert "[100%]" in lines
    quiet = project.run("--nosejobs=alpha", "-q").stdout.str()
    assert "nosejobs:" not in quiet
    assert re.search(r"^[.FEs]{4} +\[100%\]", quiet, re.MULTILINE)


def test_the_header_tells_hosts_slots_and_what_was_shipped(project: Project) -> None:
    project.add("test_a.sh")
    project.run("--nosejobs=3*popen").stdout.fnmatch_lines(
        ["nosejobs: popen (3 slots)", "nosejobs: popen: 3 slots, Python 3*, tree in place"]
    )


def test_pdb_is_explained_and_does_not_hang(project: Project) -> None:
    project.add("test_a.sh", "exit 1")
    for hosts in ((), (HOSTS,)):
        result = project.run("--pdb", *hosts)
        assert result.parseoutcomes() == {"failed": 1}
        assert "(Pdb)" not in result.stdout.str()
    result.stdout.fnmatch_lines(["*--pdb stops in Python tests only*rerun*"])


def test_python_items_run_beside_with_fixtures_set_up_once(project: Project) -> None:
    project.file(
        "conftest.py",
        "import pytest\n"
        "def log(word):\n"
        "    with open('log', 'a') as file:\n"
        "        print(word, file=file)\n"
        "@pytest.fixture(scope='session', autouse=True)\n"
        "def whole():\n"
        "    log('session up'); yield; log('session down')\n"
        "@pytest.fixture(scope='module')\n"
        "def part(request):\n"
        "    log(f'{request.module.__name__} up'); yield; log(f'{request.module.__name__} down')\n",
    )
    for name in ("test_one", "test_two"):
        project.file(f"{name}.py", "def test_a(part): pass\ndef test_b(part): assert 0\n")
    for number in range(10):
        project.add(f"test_one_{number}.sh", "exit 0")
        project.add(f"test_z_{number}.sh", "exit 1")
    result = project.run(HOSTS)
    assert result.parseoutcomes() == {"passed": 12, "failed": 12}
    assert (project.root / "log").read_text().splitlines() == [
        "session up",
        *("test_one up", "test_one down", "test_two up", "test_two down"),
        "session down",
    ]


def test_python_items_alone_leave_hosts_alone(project: Project) -> None:
    project.file("test_one.py", "def test_a(): pass\n")
    assert project.run(HOSTS).parseoutcomes() == {"passed": 1}


def test_xdist_runs_shell_tests_in_its_workers(project: Project) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    for number in range(6):
        project.add(f"test_{number}.sh", f"exit {number % 2}")
    project.file("test_one.py", "def test_a(): pass\n")
    assert project.run("-p", "xdist", "-n", "2").parseoutcomes() == {"passed": 4, "failed": 3}


def test_xdist_and_hosts_at_once_are_a_usage_error(project: Project) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    project.add("test_a.sh")
    result = project.run("-p", "xdist", "-n", "2", HOSTS)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*-n and --nosejobs cannot be used at once*--nosejobs=N[*]popen*"])


def test_timeouts_by_option_yield_to_metadata(project: Project) -> None:
    project.add("test_a.sh", "sleep 60")
    project.add("test_b.sh", "# nosejobs: timeout=60\nsleep 0.5")
    for hosts in ((), (HOSTS,)):
        result = project.run("--nosejobs-timeout=0.2", *hosts)
        assert result.parseoutcomes() == {"passed": 1, "failed": 1}


@pytest.mark.parametrize("value", ["soon", "0"])
def test_a_timeout_is_seconds(project: Project, value: str) -> None:
    project.add("test_a.sh", "true")
    result = project.run(f"--nosejobs-timeout={value}")
    assert result.ret == 4
    shown = f"'{value}'" if value == "soon" else value
    result.stderr.fnmatch_lines([f"*--nosejobs-timeout*must be seconds above 0, not {shown}*"])


def test_the_help_names_the_plugin_and_agents(project: Project) -> None:
    output = project.run("--help").stdout.str()
    assert "\nnosejobs: tests in any language, on this machine and on hosts:\n" in output
    assert "agent=host" in " ".join(output.split())


def test_variables_are_passed_on_by_ini(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_A", "1")
    monkeypatch.setenv("OTHER", "1")
    project.ini("nosejobs_pass_env = MY_*")
    project.add("test_a.sh", '[ "$MY_A" = 1 ] && [ -z "$OTHER" ]')
    for hosts in ((), (HOSTS,)):
        assert project.run(*hosts).parseoutcomes() == {"passed": 1}


def test_plugins_that_are_installed_do_not_clash(project: Project) -> None:
    for number in range(4):
        project.add(f"test_{number}.sh", f"exit {number % 2}")
    for hosts in ((), (HOSTS,)):
        assert project.run_with_all_plugins(*hosts).parseoutcomes() == {"passed": 2, "failed": 2}


def test_no_tests_is_exit_5_as_ever(project: Project) -> None:
    assert project.run(HOSTS).ret == 5


def test_rerunfailures_runs_failed_tests_again_here(project: Project) -> None:
    pytest.importorskip("pytest_rerunfailures", reason="pytest-rerunfailures is not installed")
    project.add("test_a.sh", "mkdir once 2>/dev/null && exit 1; exit 0")
    result = project.run("-p", "pytest_rerunfailures", "--reruns=1")
    assert result.parseoutcomes() == {"passed": 1, "rerun": 1}


@pytest.mark.parametrize("option", ["--setup-plan", "--setup-only", "--collect-only"])
def test_nothing_runs_when_only_a_plan_is_asked_for(project: Project, option: str) -> None:
    project.add("test_a.sh", "touch ran")
    assert project.run("--nosejobs=popen", option).ret in (0, 5)
    assert not (project.root / "ran").exists()


def test_stepwise_needs_an_order(project: Project) -> None:
    project.add("test_a.sh")
    result = project.run("--nosejobs=popen", "--sw")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--stepwise and --nosejobs cannot be used at once*"])


@pytest.mark.parametrize("name", ["terminal", "capture", "debugging", "skipping", "runner"])
def test_projects_without_shell_tests_may_disable_any_plugin(project: Project, name: str) -> None:
    project.file("test_p.py", "def test_p(): pass\n")
    with_us = project.run("-p", f"no:{name}")
    without = project.pytester.runpytest_subprocess("-p", f"no:{name}", "-p", "no:nosejobs")
    assert with_us.ret == without.ret
    assert "nosejobs" not in with_us.stderr.str()


def test_a_conftest_adds_properties_to_a_report(project: Project) -> None:
    project.add("test_a.sh")
    project.file(
        "conftest.py",
        "import pytest\n"
        "@pytest.hookimpl(wrapper=True)\n"
        "def pytest_runtest_makereport(item, call):\n"
        "    if call.when == 'call':\n"
        "        item.user_properties.append(('by_item', '1'))\n"
        "    report = yield\n"
        "    if call.when == 'call':\n"
        "        report.user_properties.append(('by_report', '2'))\n"
        "    return report\n",
    )
    for options in ((), ("--nosejobs=popen",)):
        _, cases = project.cases(*options)
        properties = [each.get("name") for each in cases["test_a.sh"].element.iter("property")]
        assert properties.count("by_item") == properties.count("by_report") == 1


@pytest.mark.parametrize("options", [(), ("--nosejobs=popen",)])
def test_an_expected_failure_that_is_not_run(project: Project, options: tuple[str, ...]) -> None:
    project.add("sub/test_a.sh", "exit 1")
    project.file(
        "conftest.py",
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    items[0].add_marker(pytest.mark.xfail(reason='no', run=False))\n",
    )
    result = project.run(*options, f"--junitxml={project.junit}")
    result.assert_outcomes(xfailed=1)
    assert 'classname="sub" name="test_a.sh"' in project.junit.read_text()
