"""Sizes, durations and dates as the command line shows them."""

from __future__ import annotations

import time


def format_size(count: float) -> str:
    """Return a number of bytes with a decimal unit: ``312 bytes``, ``1.5 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def format_age(seconds: float) -> str:
    """Return a duration in its largest unit: ``2 d``, ``3 h``, ``5 min``, ``12 s``."""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"


def format_date(seconds: float) -> str:
    """Return a time stamp as local date and time.

    A host's clock may show anything: what is not a date is returned as a number.
    """
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"
