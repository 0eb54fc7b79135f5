"""Functions that make text safe to show, quote, truncate or count.

Everything here is pure: text in, text out.  Hosts, repositories and tests may print anything;
text for a person, a terminal or an XML file goes through one of these functions.  This module
must not import another module of this package.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
_SGR = re.compile(r"\x1b\[[0-9;:]*m")
#: Control characters, characters that XML cannot hold, and those that change the direction of the
#: text around them (Unicode Standard Annex 9), so that it reads as something else.
_MISLEADING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff"
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]+"
)


# -- terminals --------------------------------------------------------------------


def strip_control_chars(text: str) -> str:
    r"""Return ``text`` without what could control a terminal.

    Escape sequences are removed, and ``\r\n`` becomes a line break; other control characters,
    except line breaks and tabs, become visible as Python escapes.
    """
    if text.isprintable():
        return text  # the common case; an escape is not printable
    text = _ESCAPES.sub("", text).replace("\r\n", "\n")
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def to_single_line(text: str, max_chars: int = 1000) -> str:
    """Return ``text`` without control characters, as one line of about ``max_chars`` at most.

    Runs of white space become one space; ``" ..."`` follows a text that was cut.
    """
    line = " ".join(strip_control_chars(text[: 4 * max_chars]).split())
    return line if len(line) <= max_chars else f"{line[:max_chars]} ..."


def escape_unprintable(name: str) -> str:
    r"""Return a file name as one line of printable characters, for people, caches and reports.

    A byte that is not UTF-8 (a lone surrogate, as :func:`os.fsdecode` makes it) becomes
    ``\xNN``, another unprintable character its Python escape.
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else _escape(ord(c)) for c in name)


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return chr(code).encode("unicode_escape").decode("ascii")


# -- reports and XML --------------------------------------------------------------


def make_readable(text: str) -> str:
    r"""Return ``text`` for people and XML 1.0: no colors, all other control characters visible.

    Characters that XML cannot hold, bytes that are not UTF-8, and controls of the direction of text
    become ``\xNN`` or ``\uNNNN``; ``\r\n`` becomes a line break.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _SGR.sub("", text).replace("\r\n", "\n")
    return _MISLEADING.sub(_make_visible, text)


def _make_visible(match: re.Match[str]) -> str:
    return match[0].translate(_VISIBLE)


class _VisibleForms(dict[int, str]):
    """Escapes by code point, each computed when it is first needed."""

    def __missing__(self, code: int) -> str:
        byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # was not UTF-8
        self[code] = f"\\x{byte:02x}" if byte < 0x100 else f"\\u{byte:04x}"
        return self[code]


_VISIBLE = _VisibleForms()


# -- shell commands ---------------------------------------------------------------


def quote_command(*words: str) -> str:
    """Return a command as typed in a shell.

    A word with unprintable characters is quoted as ``$'...'`` (bash, zsh, ksh).
    """
    return " ".join(
        shlex.quote(word) if word.isprintable() else _quote_ansi_c(word) for word in words
    )


def _quote_ansi_c(word: str) -> str:
    parts = [
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}"
        for byte in os.fsencode(word)
    ]
    return "$'" + "".join(parts) + "'"


# -- counts and lists -------------------------------------------------------------


def pluralize(noun: str, count: int) -> str:
    """Return ``noun`` with a plural ``s`` unless ``count`` is 1."""
    return noun if count == 1 else f"{noun}s"


def format_count(count: int, noun: str) -> str:
    """Return ``1 test``, ``2 tests``."""
    return f"{count} {pluralize(noun, count)}"


def shorten_list(items: Sequence[str], limit: int) -> list[str]:
    """Return the first ``limit`` items, and ``and N more`` if there are others."""
    more = len(items) - limit
    return [*items[:limit], *([f"and {more} more"] if more > 0 else [])]


#: Maximum number of attempts that are named, and characters of each reason.
_MAX_NAMED_ATTEMPTS, _MAX_REASON_CHARS = 5, 300


def attempt_reasons(attempts: Iterable[tuple[str, str]]) -> list[str]:
    """Return ``attempt 1: failed: exit 1`` for each attempt that another one followed.

    ``attempts``: outcome and message of each.  The first ones are named, the others counted.
    """
    reasons = [
        f"attempt {number}: {to_single_line(': '.join(filter(None, texts)), _MAX_REASON_CHARS)}"
        for number, texts in enumerate(attempts, 1)
    ]
    return shorten_list(reasons, _MAX_NAMED_ATTEMPTS)
