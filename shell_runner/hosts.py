"""Host specs: what a user writes for a host, and what it means.

Pure, but for one look at the disk to explain a mistake.  A spec is in execnet's style
(``ssh=user@host//slots=8``), with two short forms: ``4*popen`` and ``auto``; a bare name is
looked up in the inventory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .config import HostEntry, suggestion
from .errors import BadSpec
from .remote.machine import cores
from .remote.upkeep import LIMIT

_OPTIONS = ("ssh", "popen", "slots", "python", "ssh_config", "id", "labels")
_STARRED = re.compile(r"(\d+)\*(.+)", re.DOTALL)


@dataclass(frozen=True)
class HostSpec:
    """One host of a run."""

    #: Unique in the run; what reports call it.
    id: str
    #: ``popen``: this machine, in place; ``ssh``: another, the tree is shipped.
    kind: str
    #: Programs at a time; 0: as many as the host has cores.
    slots: int
    #: ``user@host`` and further arguments of ssh; empty for popen.
    address: str = ""
    #: The interpreter there; empty: this one for popen, ``python3`` for ssh.
    python: str = ""
    #: A file for ssh's -F.
    ssh_config: str = ""
    labels: tuple[str, ...] = ()
    #: Bytes of files that it keeps for later runs.
    cache: int = LIMIT

    @property
    def in_place(self) -> bool:
        """The tree is on this machine and is used where it is."""
        return self.kind == "popen"


def parse(texts: Sequence[str], inventory: Mapping[str, HostEntry]) -> list[HostSpec]:
    """The hosts of ``--nosejobs`` options, each perhaps a list with commas; raises BadSpec."""
    pieces = [piece.strip() for text in texts for piece in text.split(",")]
    if not any(pieces):
        raise BadSpec("--nosejobs needs a host: 2*popen, auto, ssh=user@host, or a name")
    found: list[HostSpec] = []
    for piece in filter(None, pieces):
        found.append(_unique(_parse_one(piece, inventory), found))
    return found


def _unique(spec: HostSpec, others: Sequence[HostSpec]) -> HostSpec:
    taken = {other.id for other in others}
    name, number = spec.id, 2
    while name in taken:
        name, number = f"{spec.id}-{number}", number + 1
    return replace(spec, id=name)


def _parse_one(text: str, inventory: Mapping[str, HostEntry]) -> HostSpec:
    if text in inventory:
        return _from_inventory(inventory[text])
    if text == "auto" or text.startswith("auto//"):
        slots, spec = cores(), f"popen{text.removeprefix('auto')}"
    else:
        slots, spec = _split_star(text)
    options = _options(spec)
    if "ssh" not in options and "popen" not in options:
        raise BadSpec(_unknown(text, inventory))
    if slots and "slots" in options:
        raise BadSpec(f"host spec {text!r}: give the slots once, by N* or by slots=")
    return _build(text, options, slots)


def _split_star(text: str) -> tuple[int, str]:
    starred = _STARRED.fullmatch(text)
    if not starred:
        return 0, text
    slots = int(starred[1])
    if slots < 1:
        raise BadSpec(f"host spec {text!r}: the number of slots must be above 0")
    return slots, starred[2]


def _from_inventory(entry: HostEntry) -> HostSpec:
    spec = _parse_one(entry.spec, {})
    if entry.slots is not None:
        spec = replace(spec, slots=entry.slots)
    if entry.cache is not None:
        spec = replace(spec, cache=entry.cache)
    labels = tuple(dict.fromkeys([*spec.labels, *entry.labels]))
    return replace(spec, id=entry.name, labels=labels)


def _options(spec: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in spec.split("//"):
        key, equals, value = part.partition("=")
        if equals and key not in _OPTIONS:
            raise BadSpec(f"host spec {spec!r}: unknown option {key!r}{suggestion(key, _OPTIONS)}")
        if key in options:
            raise BadSpec(f"host spec {spec!r}: option {key!r} is given twice")
        options[key] = value
    return options


def _unknown(text: str, inventory: Mapping[str, HostEntry]) -> str:
    words = f"host {text!r} is not in [hosts] of nosejobs.toml"
    if inventory:
        words += suggestion(text, inventory)
    if os.path.exists(text):
        return f"{words}\n  it is a file: --nosejobs needs hosts, as in --nosejobs=auto {text}"
    if not re.fullmatch(r"[A-Za-z][\w.@-]*", text) or "popen" in text:
        return f"{words}\n  try: --nosejobs='4*popen', auto, or ssh=user@host//slots=4"
    return f"{words}\n  try: --nosejobs=ssh={text}, or --nosejobs=auto for this machine"


def _build(text: str, options: Mapping[str, str], slots: int) -> HostSpec:
    if "ssh" in options and "popen" in options:
        raise BadSpec(f"host spec {text!r}: it is either popen or ssh")
    kind = "ssh" if "ssh" in options else "popen"
    address = options.get("ssh", "")
    if kind == "ssh" and not address.split():
        raise BadSpec(f"host spec {text!r}: ssh= needs an address, as in ssh=user@host")
    if "slots" in options:
        slots = _slots(text, options["slots"])
    name = options.get("id") or (address.split()[-1] if address else "popen")
    return HostSpec(
        id=name,
        kind=kind,
        slots=slots or (1 if kind == "popen" else 0),
        address=address,
        python=options.get("python", ""),
        ssh_config=options.get("ssh_config", ""),
        labels=_labels(text, options.get("labels")),
    )


def _labels(text: str, value: str | None) -> tuple[str, ...]:
    """``docker+gpu``: a comma would end the spec."""
    if value is None:
        return ()
    labels = value.split("+")
    for label in labels:
        if not re.fullmatch(r"\w[\w.-]*", label):
            raise BadSpec(
                f"host spec {text!r}: {label!r} is not a label; write //labels=docker+gpu"
            )
    return tuple(dict.fromkeys(labels))


def _slots(text: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise BadSpec(f"host spec {text!r}: slots must be a whole number above 0, not {value!r}")
    return int(value)
