"""Variables of a test."""

import pytest

from shell_runner.remote.execution.environment import PASSED_ON, clean


@pytest.mark.parametrize(
    "name",
    ["PATH", "LANG", "LC_ALL", "LC_X", "TZ", "USER", "LOGNAME", "SHELL", "http_proxy", "NO_PROXY"],
)
def test_passed_on(name: str) -> None:
    assert clean({name: "x"}, PASSED_ON)[name] == "x"


@pytest.mark.parametrize(
    "name",
    ["HOME", "TMPDIR", "BASH_ENV", "ENV", "PYTHONPATH", "LD_PRELOAD", "LANGUAGE", "SECRET", "path"],
)
def test_not_passed_on(name: str) -> None:
    assert name not in clean({name: "x"}, PASSED_ON)


def test_patterns_choose() -> None:
    host = {"MY_A": "1", "MY_B": "2", "OTHER": "3", "PATH": "/p"}
    assert clean(host, ("MY_*", "PATH")) == {"MY_A": "1", "MY_B": "2", "PATH": "/p"}


def test_there_is_always_a_path() -> None:
    assert "/usr/bin" in clean({}, PASSED_ON)["PATH"].split(":")


def test_a_locale_that_python_has_set_for_itself_is_not_passed_on() -> None:
    assert clean({"LC_CTYPE": "C.UTF-8"}, PASSED_ON).keys() == {"PATH"}
    given = {"LC_CTYPE": "C.UTF-8", "LANG": "de_DE.UTF-8", "PATH": "/bin"}
    assert clean(given, PASSED_ON) == given
