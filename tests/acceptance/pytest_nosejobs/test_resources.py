"""Tests of locks, serial tests, labels and repeats, as a user sees them."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET

import pytest

#: Fails if another such test runs in the same folder at the same time.
ALONE = "mkdir {0}.taken || exit 1; sleep 0.05; rmdir {0}.taken"


def script(pytester: pytest.Pytester, name: str, metadata: str, body: str = "exit 0") -> None:
    path = pytester.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n# nosejobs: {metadata}\n{body}\n")
    path.chmod(0o755)


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *args, timeout=120)


def test_one_test_at_a_time_has_a_lock_over_all_hosts(pytester: pytest.Pytester) -> None:
    for number in range(6):
        script(pytester, f"test_{number}.sh", "lock=db", ALONE.format("db"))
    result = run(pytester, "--nosejobs=2*popen,2*popen")
    result.assert_outcomes(passed=6)


def test_the_check_itself_would_notice(pytester: pytest.Pytester) -> None:
    wait = "n=0; while [ ! -e {0} ] && [ $n -lt 400 ]; do sleep 0.05; n=$((n+1)); done; "
    for mine, other in (("a", "b"), ("b", "a")):
        body = f"touch {mine}; {wait.format(other)}[ -e {other} ]"
        script(pytester, f"test_{mine}.sh", "tags=none", body)
    result = run(pytester, "--nosejobs=2*popen")
    result.assert_outcomes(passed=2)


def test_a_lock_of_a_host_is_one_on_each(pytester: pytest.Pytester) -> None:
    """Each of two tests waits for the other one; both pass only on different hosts."""
    wait = "n=0; while [ ! -e {0} ] && [ $n -lt 400 ]; do sleep 0.05; n=$((n+1)); done; "
    for mine, other in (("a", "b"), ("b", "a")):
        body = f"touch {mine}; {wait.format(other)}[ -e {other} ]"
        script(pytester, f"test_{mine}.sh", "lock=host:port", body)
    xml = pytester.path / "out.xml"
    result = run(pytester, "--nosejobs=2*popen,2*popen", f"--junitxml={xml}")
    result.assert_outcomes(passed=2)
    hosts = {each.get("value") for each in ET.parse(xml).iterfind(".//property[@name='host']")}
    assert hosts == {"popen", "popen-2"}


def test_a_lock_of_a_host_is_held_on_it(pytester: pytest.Pytester) -> None:
    for number in range(5):
        script(pytester, f"test_{number}.sh", "lock=host:port,x", ALONE.format("port"))
    run(pytester, "--nosejobs=4*popen").assert_outcomes(passed=5)


def test_a_serial_test_is_alone_on_its_host(pytester: pytest.Pytester) -> None:
    busy = "mkdir busy.$$; sleep 0.05; [ ! -e alone ]; status=$?; rmdir busy.$$; exit $status"
    alone = "mkdir alone || exit 1; sleep 0.1; set -- busy.*; rmdir alone; [ ! -e $1 ]"
    for number in range(8):
        script(pytester, f"test_{number}.sh", "tags=none", busy)
    script(pytester, "test_alone_1.sh", "serial", alone)
    script(pytester, "test_alone_2.sh", "serial=yes", alone)
    result = run(pytester, "--nosejobs=3*popen")
    result.assert_outcomes(passed=10)


def test_a_test_runs_where_its_labels_are(pytester: pytest.Pytester) -> None:
    script(pytester, "test_a.sh", "requires=docker,gpu")
    script(pytester, "test_b.sh", "requires=net")
    (pytester.path / "nosejobs.toml").write_text(
        '[hosts.netty]\nspec = "popen//labels=ipv6"\nlabels = ["net"]\n'
    )
    hosts = "--nosejobs=popen//id=plain,popen//labels=docker+gpu//id=rich,netty"
    result = run(pytester, "-v", hosts)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines_random(
        ["test_a.sh::test_a PASSED ?rich?*", "test_b.sh::test_b PASSED ?netty?*"]
    )


@pytest.mark.parametrize(
    ("args", "hosts"),
    [((), "here"), (("--nosejobs=popen//id=a,popen//labels=gpu//id=b",), "a, b")],
)
def test_what_no_host_has_is_a_skip(pytester: pytest.Pytester, args: tuple, hosts: str) -> None:
    script(pytester, "test_a.sh", "requires=docker", "touch ran")
    script(pytester, "test_b.sh", "tags=x")
    result = run(pytester, "-rs", *args)
    result.assert_outcomes(passed=1, skipped=1)
    message = f"requires docker: no host of this run has it (hosts: {hosts})"
    assert f"SKIPPED [1] test_a.sh:1: {message}" in result.stdout.str()
    assert result.ret == 0
    assert not (pytester.path / "ran").exists()


@pytest.mark.parametrize("args", [(), ("--nosejobs=2*popen",)])
def test_what_no_host_has_is_an_error_if_asked(pytester: pytest.Pytester, args: tuple) -> None:
    script(pytester, "test_a.sh", "requires=docker retries=3", "touch ran")
    pytester.makeini("[pytest]\nnosejobs_requires = error\n")
    result = run(pytester, *args)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*not run: requires docker: no host of this run has it *"])
    assert result.ret == 1
    assert not (pytester.path / "ran").exists()


def test_this_machine_can_have_labels(pytester: pytest.Pytester) -> None:
    script(pytester, "test_a.sh", "requires=docker")
    (pytester.path / "nosejobs.toml").write_text('[hosts.here]\nlabels = ["docker"]\n')
    run(pytester).assert_outcomes(passed=1)


def test_a_missing_host_is_no_host_of_the_run(pytester: pytest.Pytester) -> None:
    script(pytester, "test_a.sh", "requires=docker")
    hosts = "--nosejobs=popen,popen//python=/no/such/python//labels=docker//id=b"
    result = run(pytester, "-rs", "--nosejobs-allow-missing", hosts)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*requires docker: no host of this run has it (hosts: popen)"])


def test_a_lost_host_takes_its_labels_with_it(pytester: pytest.Pytester) -> None:
    """Tests that only the lost host could run are errors; they are not skipped."""
    kill = "kill -9 $(ps -o ppid= -p $PPID)"
    script(pytester, "test_a.sh", "requires=docker", kill)
    script(pytester, "test_b.sh", "requires=docker")
    script(pytester, "test_c.sh", "tags=x")
    # The host cannot be opened a second time.
    script(pytester, "once", "tags=x", f'mkdir $0.up && exec {sys.executable} "$@"')
    b = f"popen//labels=docker//id=b//python={pytester.path}/once"
    result = run(pytester, f"--nosejobs=popen//id=a,{b}", "--nosejobs-host-timeout=1")
    result.assert_outcomes(passed=1, errors=2)
    message = "requires docker, lost with b; no host came back within 1 s"
    result.stdout.fnmatch_lines([f"*host lost: {message}"])
    assert result.ret == 6


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("lock=a+b", "test_a.sh:2: lock: must be a list of names; 'a+b' is not the name of a lock"),
        ("lock", "test_a.sh:2: lock: needs a value: lock=..."),
        ("lock=there:db", "test_a.sh:2: lock: must be a list of names; 'there:db' is not the name"),
        ("serial=perhaps", "test_a.sh:2: serial: must be yes or no, not 'perhaps'"),
        ("requires=", "test_a.sh:2: requires: must be a list of names; '' is not a label"),
        ("retries=101", "test_a.sh:2: retries: must be a whole number, 0 to 100, not '101'"),
        ("retries=-1", "test_a.sh:2: retries: must be a whole number, 0 to 100, not '-1'"),
        ("repeat=0", "test_a.sh:2: repeat: must be a whole number, 1 to 10000, not '0'"),
        ("repeat=many", "test_a.sh:2: repeat: must be a whole number, 1 to 10000, not 'many'"),
    ],
)
def test_a_bad_value_is_an_error_with_file_line_and_key(
    pytester: pytest.Pytester, metadata: str, words: str
) -> None:
    script(pytester, "test_a.sh", metadata)
    result = run(pytester)
    assert words in result.stdout.str()
    assert result.ret == 2


def test_the_same_keys_in_the_file_of_the_tree(pytester: pytest.Pytester) -> None:
    script(pytester, "net/test_a.sh", "tags=x", ALONE.format("db"))
    (pytester.path / "nosejobs.toml").write_text(
        '[tests]\nretries = 1\n\n[tests."net/*"]\nlock = ["db"]\nrepeat = 3\nserial = true\n'
    )
    run(pytester, "--nosejobs=2*popen,2*popen").assert_outcomes(passed=3)
    (pytester.path / "nosejobs.toml").write_text("[tests]\nretries = true\n")
    result = run(pytester)
    result.stderr.fnmatch_lines(["*nosejobs.toml:2: ?tests?: retries: must be a whole number*"])


@pytest.mark.parametrize("args", [(), ("--nosejobs=2*popen",)])
def test_a_repeated_test_is_an_item_for_each_run(pytester: pytest.Pytester, args: tuple) -> None:
    script(pytester, "net/test_a.sh", "repeat=3", "echo x >> runs")
    script(pytester, "net/test_b.sh", "tags=x")
    xml = pytester.path / "out.xml"
    run(pytester, *args, f"--junitxml={xml}").assert_outcomes(passed=4)
    names = sorted(case.get("name", "") for case in ET.parse(xml).iter("testcase"))
    assert names == [*(f"test_a.sh::repeat-{number}-of-3" for number in (1, 2, 3)), "test_b.sh"]
    assert (pytester.path / "net/runs").read_text() == "x\n" * 3
    run(pytester, *args, "net/test_a.sh").assert_outcomes(passed=3)


def test_one_run_of_a_repeated_test_can_be_pasted_back(pytester: pytest.Pytester) -> None:
    script(pytester, "test_a.sh", "repeat=3", "echo x >> runs")
    run(pytester, "test_a.sh::repeat-2-of-3").assert_outcomes(passed=1)
    run(pytester, "test_a.sh").assert_outcomes(passed=3)


def test_the_option_is_stronger_than_metadata(pytester: pytest.Pytester) -> None:
    script(pytester, "test_a.sh", "repeat=3")
    script(pytester, "test_b.sh", "tags=x")
    run(pytester, "--nosejobs-repeat=2").assert_outcomes(passed=4)
    run(pytester, "--nosejobs-repeat=1").assert_outcomes(passed=2)
    assert run(pytester, "--nosejobs-repeat=0").ret == 4


@pytest.mark.parametrize("args", [(), ("--nosejobs=popen",)])
def test_repeats_stop_at_the_first_failure(pytester: pytest.Pytester, args: tuple) -> None:
    script(pytester, "test_a.sh", "repeat=20", "mkdir first || exit 1")
    result = run(pytester, "-x", *args)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])
