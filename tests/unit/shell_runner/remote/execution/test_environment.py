"""Tests of the environment variables of a test."""

import pytest

from shell_runner.remote.execution.environment import PASSED_VARIABLES, filter_environment


@pytest.mark.parametrize(
    "name",
    ["PATH", "LANG", "LC_ALL", "LC_X", "TZ", "USER", "LOGNAME", "SHELL", "http_proxy", "NO_PROXY"],
)
def test_these_variables_are_passed(name: str) -> None:
    assert filter_environment({name: "x"}, PASSED_VARIABLES)[name] == "x"


@pytest.mark.parametrize(
    "name",
    ["HOME", "TMPDIR", "BASH_ENV", "ENV", "PYTHONPATH", "LD_PRELOAD", "LANGUAGE", "SECRET", "path"],
)
def test_these_variables_are_not_passed(name: str) -> None:
    assert name not in filter_environment({name: "x"}, PASSED_VARIABLES)


def test_patterns_select_variables() -> None:
    host = {"MY_A": "1", "MY_B": "2", "OTHER": "3", "PATH": "/p"}
    assert filter_environment(host, ("MY_*", "PATH")) == {"MY_A": "1", "MY_B": "2", "PATH": "/p"}


def test_there_is_always_a_path() -> None:
    assert "/usr/bin" in filter_environment({}, PASSED_VARIABLES)["PATH"].split(":")


def test_a_locale_that_python_has_set_for_itself_is_not_passed_on() -> None:
    assert filter_environment({"LC_CTYPE": "C.UTF-8"}, PASSED_VARIABLES).keys() == {"PATH"}
    given = {"LC_CTYPE": "C.UTF-8", "LANG": "de_DE.UTF-8", "PATH": "/bin"}
    assert filter_environment(given, PASSED_VARIABLES) == given
