"""Tests of the settings of pytest-timeout, which hold for shell tests; its alarm is not used."""

from __future__ import annotations

import pytest

pytest.importorskip("pytest_timeout")

HERE_AND_THERE = pytest.mark.parametrize("args", [(), ("--nosejobs=2*popen",)])
HANGS = "#!/bin/sh\necho started\nexec sleep 300\n"


def script(pytester: pytest.Pytester, name: str, text: str) -> None:
    path = pytester.path / name
    path.write_text(text)
    path.chmod(0o755)


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *args, timeout=120)


def check_timed_out(result: pytest.RunResult, seconds: str) -> None:
    """Check that the host has stopped the test, with its output, and not pytest-timeout."""
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"timed out after {seconds} s", "started"])
    result.stdout.no_fnmatch_line("*Timeout*")
    assert result.ret == 1


@HERE_AND_THERE
@pytest.mark.parametrize("method", ["signal", "thread"])
def test_option(pytester: pytest.Pytester, args: tuple, method: str) -> None:
    script(pytester, "test_a.sh", HANGS)
    check_timed_out(run(pytester, "--timeout=0.5", f"--timeout-method={method}", *args), "0.5")


@HERE_AND_THERE
def test_ini(pytester: pytest.Pytester, args: tuple) -> None:
    script(pytester, "test_a.sh", HANGS)
    pytester.makeini("[pytest]\ntimeout = 0.5\ntimeout_func_only = true\n")
    check_timed_out(run(pytester, *args), "0.5")


@HERE_AND_THERE
def test_mark_is_stronger_than_the_option(pytester: pytest.Pytester, args: tuple) -> None:
    script(pytester, "test_a.sh", HANGS)
    pytester.makeconftest(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    items[0].add_marker(pytest.mark.timeout(0.5))\n"
    )
    check_timed_out(run(pytester, "--timeout=200", *args), "0.5")


@HERE_AND_THERE
@pytest.mark.parametrize("ours", ["option", "ini", "metadata"])
def test_our_own_settings_are_stronger(pytester: pytest.Pytester, args: tuple, ours: str) -> None:
    metadata = "# nosejobs: timeout=0.5\n" if ours == "metadata" else ""
    script(pytester, "test_a.sh", HANGS.replace("\n", f"\n{metadata}", 1))
    if ours == "ini":
        pytester.makeini("[pytest]\nnosejobs_timeout = 0.5\n")
    option = ["--nosejobs-timeout=0.5"] if ours == "option" else []
    check_timed_out(run(pytester, "--timeout=200", *option, *args), "0.5")


def test_a_longer_timeout_of_ours_is_not_cut_short(pytester: pytest.Pytester) -> None:
    script(pytester, "test_a.sh", "#!/bin/sh\n# nosejobs: timeout=60\nsleep 1\n")
    run(pytester, "--timeout=0.2").assert_outcomes(passed=1)


@HERE_AND_THERE
def test_a_timeout_is_tried_again(pytester: pytest.Pytester, args: tuple) -> None:
    script(pytester, "test_a.sh", "#!/bin/sh\n# nosejobs: retries=1\nmkdir d || exit 0; sleep 99")
    result = run(pytester, "--timeout=0.5", *args)
    result.stdout.fnmatch_lines(["*R.*", "test_a.sh: passed on attempt 2 of 2"])


def test_session_timeout(pytester: pytest.Pytester) -> None:
    for number in range(20):
        script(pytester, f"test_{number}.sh", "#!/bin/sh\nsleep 0.5\n")
    result = run(pytester, "--session-timeout=1", "--nosejobs=popen")
    result.stdout.fnmatch_lines(["*session-timeout: 1.0 sec exceeded*"])
    assert result.parseoutcomes()["passed"] < 20


@HERE_AND_THERE
def test_python_tests_keep_their_alarm(pytester: pytest.Pytester, args: tuple) -> None:
    script(pytester, "test_a.sh", "#!/bin/sh\n")
    pytester.makepyfile(test_py="import time\ndef test_it():\n    time.sleep(60)\n")
    result = run(pytester, "--timeout=1", *args)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Timeout (>1.0s) from pytest-timeout.*"])
