"""``nosejobs.toml`` at the root of a tree: its tables, and hosts by name.

Owns the tables' names and the keys of ``[hosts.NAME]``; ``metadata`` owns those of ``[tests]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InvalidConfig
from .validators import Validator, line, list_of, matching, size, whole

if TYPE_CHECKING:
    from .toml_document import Document

CONFIG_FILE_NAME = "nosejobs.toml"
#: All tables of the file; the dispatcher reads the last three.
TABLE_NAMES = ("tests", "hosts", "build", "stages", "levels")
#: Slots of one host: each is a process, and runs others.
MAX_SLOTS = 1024
#: The keys of ``[hosts.NAME]``, of the dispatcher's file as well.
HOST_VALIDATORS: Mapping[str, Validator] = {
    "spec": line(),
    "slots": whole(1, MAX_SLOTS),
    "labels": list_of(matching(r"\w[\w.-]*", "a label: letters, digits, '_', '-', '.'"), "labels"),
    "cache": size,
}


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
    #: Where all of it was read; None without a file.
    document: Document | None = None

    @property
    def path(self) -> Path:
        """The file, whether it exists or not."""
        return self.root / CONFIG_FILE_NAME


def load_config(root: Path) -> Config:
    """Return the config of the tree at ``root``; an empty one without a file.

    Raises BadConfig that names file, line and key.
    """
    path = root / CONFIG_FILE_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Config(root)
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}") from error
    # Most trees have no such file: their runs do not load what reads it.
    from .toml_document import MAX_OWN_FILE_CHARS, parse_document

    return config_from_document(parse_document(str(path), text, MAX_OWN_FILE_CHARS), root)


def config_from_document(document: Document, root: Path) -> Config:
    """Return what a nosejobs.toml contains for a run; raises BadConfig."""
    document.check_keys((), TABLE_NAMES)
    tests = document.table(["tests"])
    return Config(
        root,
        {name: parse_host_entry(document, name) for name in document.table(["hosts"])},
        tuple((key, value) for key, value in tests.items() if isinstance(value, dict)),
        {key: value for key, value in tests.items() if not isinstance(value, dict)},
        document,
    )


def parse_host_entry(
    document: Document, name: str, validators: Mapping[str, Validator] = HOST_VALIDATORS
) -> HostEntry:
    """Return one ``[hosts.NAME]``; raises BadConfig."""
    values = document.check_table(("hosts", name), validators)
    return HostEntry(name, **{"spec": f"ssh={name}", **values})


def find_root(start: Path) -> Path | None:
    """The nearest folder at or above ``start`` with a nosejobs.toml."""
    for folder in (start, *start.parents):
        if (folder / CONFIG_FILE_NAME).is_file():
            return folder
    return None
