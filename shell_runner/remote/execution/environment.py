"""The environment variables of a test.

Pure: the host's variables come as an argument.  The rules are those of the page
"isolation" of the manual; the TEST_ names are Bazel's ("Test encyclopedia").
"""

import fnmatch
from typing import Dict, Iterable, Mapping

#: What every test gets from its host; ``*`` stands for any ending.
PASSED_ON = (
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

#: What Python sets in its own environment where there is no locale (PEP 538).
_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def clean(host: Mapping[str, str], patterns: Iterable[str]) -> Dict[str, str]:
    """The variables of ``host`` that match ``patterns``, with a PATH in any case."""
    wanted = tuple(patterns)
    found = {
        name: value
        for name, value in host.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
    }
    found.setdefault("PATH", _DEFAULT_PATH)
    if found.get("LC_CTYPE") in _COERCED and not (host.get("LC_ALL") or host.get("LANG")):
        del found["LC_CTYPE"]
    return found
