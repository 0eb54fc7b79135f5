"""The limits of a host's queue as text: ``NAME=VALUE``, sizes with units, descriptions."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import UsageError
from ..validators import check, size

#: Name and description of each limit.
LIMIT_DESCRIPTIONS: Mapping[str, str] = {
    "waiting": "maximum number of queued jobs",
    "kept_bytes": "bytes of packages kept after the harvest",
    "contents_bytes": "bytes of builds and tests kept that no job uses",
    "linger": "seconds that an idle worker waits for jobs",
    "drop_unharvested": "whether kept_bytes also removes packages that were not harvested",
}
_FLAG_VALUES = {"yes": 1, "no": 0, "true": 1, "false": 0, "1": 1, "0": 0}


def format_limit(name: str, value: int) -> str:
    """Return the value of a limit; a size has the largest unit that makes it a whole number."""
    if name == "drop_unharvested":
        return "yes" if value else "no"
    if not name.endswith("bytes"):
        return str(value)
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "k")):
        for base, unit in ((1024, letter.upper() + "iB"), (1000, letter + "B")):
            if value and not value % base**power:
                return f"{value // base**power} {unit}"
    return f"{value} bytes"


def parse_limit(text: str) -> tuple[str, int]:
    """Return name and value of ``NAME=VALUE``, such as ``kept_bytes=8GiB``.

    Raises ``UsageError`` for an unknown name or an invalid value.
    """

    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r}: use NAME=VALUE, such as kept_bytes=8GiB")
    if name not in LIMIT_DESCRIPTIONS:
        raise UsageError(f"unknown limit {name!r}; limits: {', '.join(LIMIT_DESCRIPTIONS)}")
    if name == "drop_unharvested":
        return name, _require_limit(name, "yes or no", value, _FLAG_VALUES.get(value.lower()))
    if not name.endswith("bytes"):
        unit = "a number of jobs" if name == "waiting" else "a whole number of seconds"
        sound = value.isascii() and value.isdecimal() and len(value) < 18
        return name, _require_limit(name, unit, value, int(value) if sound else None)
    number: int = check(
        size,
        int(value) if value.isdecimal() else value,
        lambda message: UsageError(f"{name} {message}"),
    )
    return name, number


def _require_limit(name: str, unit: str, text: str, value: int | None) -> int:
    if value is None:
        raise UsageError(f"{name} must be {unit}, not {text!r}")
    return value
