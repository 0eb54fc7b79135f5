"""The rule for addresses of repositories, for the dispatcher's file and for the sources.

Pure.  Git runs a helper program for some addresses; those are refused.
"""

from __future__ import annotations

import re

#: Transports that git may use.  ``ext::`` and remote helpers are not among them: they run programs
#: that an address names.  ``file``, the last one, is for local addresses only.
ALLOWED_TRANSPORTS = ("https", "http", "ssh", "git", "file")
#: Beginning of an address that names a helper program.
HELPER_PREFIX = re.compile(r"[a-zA-Z0-9+.-]+::")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


def find_address_error(address: str) -> str:
    """Return why a text cannot be the address of a repository; empty: it can."""
    if not address or address.startswith("-") or not address.isprintable():
        return "not the address of a repository"
    scheme = _SCHEME.match(address)
    if HELPER_PREFIX.match(address) or (scheme and scheme[1].lower() not in ALLOWED_TRANSPORTS):
        return f"transport not allowed; use one of {', '.join(ALLOWED_TRANSPORTS)}"
    return ""
