"""``nosejobs.toml`` at the root of a tree: tests, and hosts by name.

Owns the file's keys and their checking.  Unknown keys are errors with a suggestion.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import BadConfig

NAME = "nosejobs.toml"

_TOP = ("tests", "hosts", "build", "stages", "levels")
_HOST = ("spec", "slots", "labels", "cache")
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?(?:([kKMGT])(i?))?B?", re.ASCII)
#: What a size must be, and bytes that no disk has.
A_SIZE, _MOST_BYTES = 'a size as "4GiB", "500MB" or 0', 1 << 60


@dataclass(frozen=True)
class HostEntry:
    """One ``[hosts.NAME]``."""

    name: str
    spec: str
    slots: int | None = None
    labels: tuple[str, ...] = ()
    #: Bytes of files that the host keeps for later runs.
    cache: int | None = None


@dataclass(frozen=True)
class Config:
    """What a tree says of its tests and hosts."""

    root: Path
    hosts: Mapping[str, HostEntry] = field(default_factory=dict)
    #: Metadata by pattern, in the order of the file; later patterns win.
    patterns: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    #: Metadata for all tests.
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file, whether it exists or not."""
        return self.root / NAME


def load(root: Path) -> Config:
    """The config of the tree at ``root``; an empty one without a file.  Raises BadConfig."""
    path = root / NAME
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return Config(root)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"{path}: {error}") from error
    return parse(root, data)


def parse(root: Path, data: Mapping[str, Any]) -> Config:
    """Check the data of a file and freeze it.  Raises BadConfig."""
    path = root / NAME
    check_keys(str(path), "", data, _TOP)
    tests = _table(path, "tests", data.get("tests", {}))
    hosts = _table(path, "hosts", data.get("hosts", {}))
    defaults = {key: value for key, value in tests.items() if not isinstance(value, dict)}
    patterns = [(key, value) for key, value in tests.items() if isinstance(value, dict)]
    return Config(
        root,
        {name: _host(path, name, entry) for name, entry in hosts.items()},
        tuple(patterns),
        defaults,
    )


def _host(path: Path, name: str, entry: Any) -> HostEntry:
    where = f"hosts.{name}"
    table = _table(path, where, entry)
    check_keys(str(path), where, table, _HOST)
    spec = table.get("spec", f"ssh={name}")
    slots = table.get("slots")
    labels = table.get("labels", [])
    if not isinstance(spec, str):
        raise BadConfig(f"{path}: {where}.spec must be a string, not {spec!r}")
    if slots is not None and (type(slots) is not int or slots < 1):
        raise BadConfig(f"{path}: {where}.slots must be a whole number above 0, not {slots!r}")
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise BadConfig(f"{path}: {where}.labels must be a list of strings, not {labels!r}")
    cache = None if "cache" not in table else size(f"{path}: {where}.cache", table["cache"])
    return HostEntry(name, spec, slots, tuple(labels), cache)


def size(where: str, value: Any) -> int:
    """``"4GiB"``, ``"500 MB"``, or a number of bytes; raises BadConfig."""
    found = bytes_of(value)
    if found is None:
        raise BadConfig(f"{where} must be {A_SIZE}, not {value!r}")
    return found


def bytes_of(value: Any) -> int | None:
    """The bytes of a size as a file of ours has it; None: it is none."""
    if type(value) is int:
        return value if 0 <= value < _MOST_BYTES else None
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    number, prefix, binary = found.groups()
    power = " KMGT".index((prefix or " ").upper())
    return int(float(number) * (1024 if binary else 1000) ** power)


def _table(path: Path, where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadConfig(f"{path}: [{where}] must be a table, not {value!r}")
    return value


def check_keys(path: str, where: str, table: Iterable[str], known: Iterable[str]) -> None:
    """Raise BadConfig for the first key that is not known, with a suggestion."""
    names = list(known)
    for key in table:
        if key not in names:
            place = f"{where}.{key}" if where else key
            raise BadConfig(f"{path}: unknown key {place!r}{suggestion(key, names)}")


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def find_root(start: Path) -> Path | None:
    """The nearest folder at or above ``start`` with a nosejobs.toml."""
    for folder in (start, *start.parents):
        if (folder / NAME).is_file():
            return folder
    return None
