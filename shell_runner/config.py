"""``nosejobs.toml`` at the root of a tree: its tables, and hosts by name.

Defines the names of the tables and the keys of ``[hosts.NAME]``; ``metadata`` defines those of
``[tests]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config_file import CONFIG_FILE_NAME
from .errors import InvalidConfig
from .validators import Validator, line, list_of, matching, size, whole

if TYPE_CHECKING:
    from .toml_document import Document

#: Names of all tables of the file; the dispatcher reads the last three.
TABLE_NAMES = ("tests", "hosts", "build", "stages", "levels")
#: Keys of ``[tests]`` whose value may be a table; any other table there is that of a pattern.
TABLE_KEYS = ("env", "limits")
#: Maximum slots of one host; each is a process that runs other processes.
MAX_SLOTS = 1024
#: Validators by key of ``[hosts.NAME]``, also for the dispatcher's file.
HOST_VALIDATORS: Mapping[str, Validator] = {
    "spec": line(),
    "slots": whole(1, MAX_SLOTS),
    "labels": list_of(matching(r"\w[\w.-]*", "a label: letters, digits, '_', '-', '.'"), "labels"),
    "cache": size,
}


@dataclass(frozen=True)
class HostEntry:
    """The entry of one host, ``[hosts.NAME]``."""

    name: str
    #: Host spec, such as ``ssh=user@host``.
    spec: str
    #: Number of tests that run at the same time; None: the number of cores.
    slots: int | None = None
    #: Labels that tests can require.
    labels: tuple[str, ...] = ()
    #: Maximum bytes of the host's file cache; None: the default.
    cache: int | None = None


@dataclass(frozen=True)
class Config:
    """The configuration of a tree: its tests and hosts."""

    #: Root of the tree.
    root: Path
    hosts: Mapping[str, HostEntry] = field(default_factory=dict)
    #: Metadata by pattern, in the order of the file; later patterns win.
    patterns: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    #: Metadata for all tests.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: The parsed file; None if there is none.
    document: Document | None = None

    @property
    def path(self) -> Path:
        """Return the path of the file, which need not exist."""
        return self.root / CONFIG_FILE_NAME


def load_config(root: Path) -> Config:
    """Return the config of the tree at ``root``; an empty one without a file.

    Raises InvalidConfig, which names file, line and key.
    """
    path = root / CONFIG_FILE_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Config(root)
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}") from error
    # Most trees have no such file, and their runs need not load the parser.
    from .toml_document import MAX_OWN_FILE_CHARS, parse_document

    return config_from_document(parse_document(str(path), text, MAX_OWN_FILE_CHARS), root)


def config_from_document(document: Document, root: Path) -> Config:
    """Return the configuration that a document holds for a run; raises InvalidConfig."""
    document.check_keys((), TABLE_NAMES)
    tests = document.table(["tests"])
    return Config(
        root,
        {name: parse_host_entry(document, name) for name in document.table(["hosts"])},
        tuple((key, value) for key, value in tests.items() if _is_pattern(key, value)),
        {key: value for key, value in tests.items() if not _is_pattern(key, value)},
        document,
    )


def _is_pattern(key: str, value: Any) -> bool:
    """Return whether an entry of ``[tests]`` is a pattern with its own table."""
    return isinstance(value, dict) and key not in TABLE_KEYS


def parse_host_entry(
    document: Document, name: str, validators: Mapping[str, Validator] = HOST_VALIDATORS
) -> HostEntry:
    """Return the entry of one host; raises InvalidConfig."""
    values = document.check_table(("hosts", name), validators)
    return HostEntry(name, **{"spec": f"ssh={name}", **values})
