"""The environment variables of a test.

Pure: the host's variables are an argument.  The rules are documented in docs/isolation.md; the
names that start with TEST_ are those of Bazel ("Test encyclopedia").
"""

import fnmatch
import os
from typing import Dict, Iterable, Mapping

from ..protocol.model import Setup, Test

#: Patterns of the variables that every test gets from its host.
PASSED_VARIABLES = (
    "PATH",
    "LANG",
    "LC_*",
    "TZ",
    "USER",
    "LOGNAME",
    "SHELL",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
)

#: Values of LC_CTYPE that Python sets in its own environment if there is no locale (PEP 538).
_COERCED_CTYPES = ("C.UTF-8", "C.utf8", "UTF-8")

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def filter_environment(host: Mapping[str, str], patterns: Iterable[str]) -> Dict[str, str]:
    """Return the variables of ``host`` that match ``patterns``, and a PATH in any case.

    A value of LC_CTYPE that Python has set for itself is removed.
    """
    patterns = tuple(patterns)
    variables = {
        name: value
        for name, value in host.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    variables.setdefault("PATH", _DEFAULT_PATH)
    if variables.get("LC_CTYPE") in _COERCED_CTYPES and not (
        host.get("LC_ALL") or host.get("LANG")
    ):
        del variables["LC_CTYPE"]
    return variables


def build_session_environment(host: Mapping[str, str], setup: Setup) -> Dict[str, str]:
    """Return the variables that all tests of a session have."""
    env = filter_environment(host, PASSED_VARIABLES + setup.pass_env)
    env["TEST_SRCDIR"] = setup.root
    env.update(setup.env)
    return env


def build_test_environment(
    session: Mapping[str, str], host: Mapping[str, str], test: Test, scratch: Mapping[str, str]
) -> Dict[str, str]:
    """Return the variables of a test.

    ``session``: those of all tests; ``scratch``: the private directories ``tmp``, ``home`` and
    ``out`` by name.  Variables that the test itself sets take precedence.
    """
    env = dict(session)
    if test.pass_env:
        env.update(filter_environment(host, test.pass_env), PATH=env["PATH"])
    env["TMPDIR"] = env["TEST_TMPDIR"] = scratch["tmp"]
    env["TEST_UNDECLARED_OUTPUTS_DIR"] = out = scratch["out"]
    env["XML_OUTPUT_FILE"] = out + "/test.xml"
    env["GTEST_OUTPUT"] = "xml:" + out + "/test.xml"
    env["HOME"] = os.path.expanduser("~") if test.home == "keep" else scratch["home"]
    env.update(test.env)
    return env
