"""The environment variables of a test.

Pure: the host's variables are an argument.  The rules are documented in docs/isolation.md; the
names that start with TEST_ are those of Bazel ("Test encyclopedia").
"""

import fnmatch
from typing import Dict, Iterable, Mapping

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
    wanted = tuple(patterns)
    found = {
        name: value
        for name, value in host.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
    }
    found.setdefault("PATH", _DEFAULT_PATH)
    if found.get("LC_CTYPE") in _COERCED_CTYPES and not (host.get("LC_ALL") or host.get("LANG")):
        del found["LC_CTYPE"]
    return found
