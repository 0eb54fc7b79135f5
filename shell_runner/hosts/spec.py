"""Host specs: what users write for a host, and its meaning.

Pure, except that a file is looked up to explain a mistake.  A spec has execnet's style
(``ssh=user@host//slots=8``), with two short forms: ``4*popen`` and ``auto``.  A bare name is that
of a host of the inventory, else of a host with an agent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config import MAX_SLOTS, HostEntry
from ..errors import InvalidHostSpec
from ..remote.agent.tcp import DEFAULT_PORT as AGENT_PORT
from ..remote.files.cache_eviction import DEFAULT_LIMIT_BYTES
from ..remote.protocol.host_facts import count_cores
from ..validators import format_suggestion

_KINDS = ("agent", "popen", "ssh")
_COMMON_OPTIONS = ("slots", "python", "id", "labels")
#: Options that only hosts of one kind have.
_KIND_OPTIONS = {"agent": ("name", "credentials", "listen"), "popen": (), "ssh": ("ssh_config",)}
_OPTIONS = (*_KINDS, *_COMMON_OPTIONS, *(each for own in _KIND_OPTIONS.values() for each in own))
#: Slots and host of ``4*popen``; ``popen*4`` does not match, and is explained as an unknown host.
_SLOTS_PREFIX = re.compile(r"([^*/=]*)\*(?![0-9]+\Z)(.+)", re.DOTALL)


@dataclass(frozen=True)
class HostSpec:
    """One host of a run."""

    #: The name in reports, unique in the run.
    id: str
    #: ``popen``: this machine, tree in place; ``ssh`` and ``agent``: the tree is shipped.
    kind: str
    #: The number of concurrent tests; 0: one per core of the host.
    slots: int
    #: Arguments of ssh that end with ``user@host``; the address of an agent; empty for popen.
    address: str = ""
    #: The interpreter on the host; empty: this one (popen), ``python3`` (ssh), the agent's own.
    python: str = ""
    #: The file for ``ssh -F``; empty: none.
    ssh_config: str = ""
    labels: tuple[str, ...] = ()
    #: Maximum bytes of files that the host keeps for later runs.
    cache: int = DEFAULT_LIMIT_BYTES
    #: The TCP port of the agent.
    port: int = 0
    #: The name in the agent's certificate; empty: its address.
    name: str = ""
    #: The file of the client bundle; empty: the default one.
    credentials: str = ""
    #: The port on which to wait for an agent that connects to us; 0: connect to the agent.
    listen: int = 0
    #: A hint what else a bare name may have meant, for the error if it cannot be opened.
    alternative: str = ""

    @property
    def is_in_place(self) -> bool:
        """Return whether the host uses the tree on this machine in place."""
        return self.kind == "popen"


def parse_specs(texts: Sequence[str], inventory: Mapping[str, HostEntry]) -> list[HostSpec]:
    """Return the hosts of ``--nosejobs`` values, each of which may be a list with commas.

    ``inventory``: the ``[hosts]`` of nosejobs.toml by name.  Raises :exc:`InvalidHostSpec`.
    """
    pieces = [piece.strip() for text in texts for piece in text.split(",")]
    if not any(pieces):
        raise InvalidHostSpec("--nosejobs needs a host: 2*popen, auto, ssh=user@host, or a name")
    specs: list[HostSpec] = []
    for piece in filter(None, pieces):
        specs.append(_make_id_unique(_parse_spec(piece, inventory), specs))
    return specs


def _make_id_unique(spec: HostSpec, others: Sequence[HostSpec]) -> HostSpec:
    taken = {other.id for other in others}
    name, number = spec.id, 2
    while name in taken:
        name, number = f"{spec.id}-{number}", number + 1
    return replace(spec, id=name)


def _parse_spec(text: str, inventory: Mapping[str, HostEntry]) -> HostSpec:
    slots, rest = _split_slots(text)
    name, _, more = rest.partition("//")
    if name in inventory:
        return _override(text, _from_inventory(inventory[name]), slots, more)
    if text == "auto" or text.startswith("auto//"):
        slots, spec = count_cores(), f"popen{text.removeprefix('auto')}"
    else:
        spec = rest
    options = _parse_options(spec)
    alternative = ""
    if not options.keys() & set(_KINDS):
        options, alternative = _interpret_bare_name(text, spec, options, inventory)
    if slots and "slots" in options:
        raise InvalidHostSpec(f"host spec {text!r}: give the slots once, by N* or by slots=")
    return replace(_build_spec(text, options, slots), alternative=alternative)


def _interpret_bare_name(
    text: str, spec: str, options: dict[str, str], inventory: Mapping[str, HostEntry]
) -> tuple[dict[str, str], str]:
    """Return the options of an agent with that name, and a hint what else was meant."""
    name = spec.split("//")[0]
    if not _is_name(name) or _find_similar(name, ("auto", "popen"), 0.7) or os.path.exists(name):
        raise InvalidHostSpec(_unknown_host_message(text, inventory))
    found = _find_similar(name, inventory)
    alternative = f"did you mean {found!r} of nosejobs.toml?" if found else ""
    if not inventory:
        alternative = f'name it in nosejobs.toml: [hosts.{name}], spec = "ssh={name}"'
    return {
        "agent": name,
        **{key: value for key, value in options.items() if key != name},
    }, alternative


def _is_name(text: str) -> bool:
    host = r"[A-Za-z0-9_](?:[\w.-]*\w)?|\[[0-9A-Fa-f:.]+\]"
    return bool(re.fullmatch(rf"(?:{host})(?::\d+)?", text, re.ASCII)) and not text.isdecimal()


def _find_similar(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    import difflib  # needed for errors only

    found = difflib.get_close_matches(word, list(known), 1, cutoff)
    return found[0] if found else ""


def _split_slots(text: str) -> tuple[int, str]:
    starred = _SLOTS_PREFIX.fullmatch(text)
    if not starred:
        return 0, text
    is_number = re.fullmatch(r"[0-9]{1,9}", starred[1])
    if not is_number or not 0 < int(starred[1]) <= MAX_SLOTS:
        message = f"the number of slots must be 1 to {MAX_SLOTS}, not {starred[1][:20]!r}"
        raise InvalidHostSpec(f"host spec {text!r}: {message}")
    return int(starred[1]), starred[2]


def _from_inventory(entry: HostEntry) -> HostSpec:
    spec = _parse_spec(entry.spec, {})
    if spec.kind == "agent" and "agent=" not in entry.spec:
        message = f"[hosts.{entry.name}] of nosejobs.toml: spec {entry.spec!r} has no kind"
        raise InvalidHostSpec(f'{message}\n  try: spec = "agent={entry.spec}", or ssh={entry.spec}')
    if entry.slots is not None:
        spec = replace(spec, slots=entry.slots)
    if entry.cache is not None:
        spec = replace(spec, cache=entry.cache)
    labels = tuple(dict.fromkeys([*spec.labels, *entry.labels]))
    return replace(spec, id=entry.name, labels=labels)


def _override(text: str, spec: HostSpec, slots: int, more: str) -> HostSpec:
    """Return a host of the inventory with the slots and options that a spec adds."""
    options = _parse_options(more) if more else {}
    if options.keys() & set(_KINDS):
        message = f"host spec {text!r}: {spec.id} is a host of nosejobs.toml"
        raise InvalidHostSpec(f"{message}, which has its own spec; only options can be added")
    _check_kind_options(text, spec.kind, options)
    if slots and "slots" in options:
        raise InvalidHostSpec(f"host spec {text!r}: give the slots once, by N* or by slots=")
    changes: dict[str, Any] = {
        key: options[key]
        for key in ("id", "python", "ssh_config", "name", "credentials")
        if key in options
    }
    if slots or "slots" in options:
        changes["slots"] = slots or _parse_slots(text, options["slots"])
    if "labels" in options:
        changes["labels"] = _parse_labels(text, options["labels"])
    if "listen" in options:
        changes["listen"] = _parse_port(text, "listen", options["listen"])
    return replace(spec, **changes)


def _parse_options(spec: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in spec.split("//"):
        key, equals, value = part.partition("=")
        if equals and key not in _OPTIONS:
            raise InvalidHostSpec(
                f"host spec {spec!r}: unknown option {key!r}{format_suggestion(key, _OPTIONS)}"
            )
        if key in options:
            raise InvalidHostSpec(f"host spec {spec!r}: option {key!r} is given twice")
        options[key] = value
    return options


def _unknown_host_message(text: str, inventory: Mapping[str, HostEntry]) -> str:
    message = f"host {text!r} is not in [hosts] of nosejobs.toml"
    if inventory:
        message += format_suggestion(text, inventory)
    if os.path.exists(text):
        message += f"\n  it is a file: --nosejobs needs hosts, as in --nosejobs=auto {text}"
        return message + (f", or agent={text} for a host" if _is_name(text) else "")
    if not re.fullmatch(r"[A-Za-z][\w.@-]*", text) or _find_similar(text, ("auto", "popen"), 0.7):
        return f"{message}\n  try: --nosejobs='4*popen', auto, or ssh=user@host//slots=4"
    return f"{message}\n  try: --nosejobs=ssh={text}, or --nosejobs=auto for this machine"


def _build_spec(text: str, options: Mapping[str, str], slots: int) -> HostSpec:
    kinds = [kind for kind in _KINDS if kind in options]
    if len(kinds) > 1:
        raise InvalidHostSpec(f"host spec {text!r}: use only one of {', '.join(kinds)}")
    kind = kinds[0]
    _check_kind_options(text, kind, options)
    if "slots" in options:
        slots = _parse_slots(text, options["slots"])
    spec = HostSpec(
        id=options.get("id", ""),
        kind=kind,
        slots=slots or (1 if kind == "popen" else 0),
        python=options.get("python", ""),
        labels=_parse_labels(text, options.get("labels")),
    )
    return _COMPLETE_BY_KIND[kind](text, options, spec)


def _check_kind_options(text: str, kind: str, options: Mapping[str, str]) -> None:
    for other, own in _KIND_OPTIONS.items():
        for key in own:
            if key in options and other != kind:
                raise InvalidHostSpec(f"host spec {text!r}: option {key!r} is for {other} hosts")


def _complete_popen(text: str, options: Mapping[str, str], spec: HostSpec) -> HostSpec:
    return replace(spec, id=spec.id or "popen")


def _complete_ssh(text: str, options: Mapping[str, str], spec: HostSpec) -> HostSpec:
    address = options["ssh"]
    if not address.split():
        raise InvalidHostSpec(f"host spec {text!r}: ssh= needs an address, as in ssh=user@host")
    if re.fullmatch(r"[^:\[\]]+:\d+", address.split()[-1]):
        message = f"host spec {text!r}: ssh= does not take HOST:PORT"
        raise InvalidHostSpec(f"{message}\n  try: Port in ~/.ssh/config, or in //ssh_config=FILE")
    name = spec.id or address.split()[-1]
    return replace(spec, id=name, address=address, ssh_config=options.get("ssh_config", ""))


def _complete_agent(text: str, options: Mapping[str, str], spec: HostSpec) -> HostSpec:
    address, port = _parse_agent_address(text, options["agent"])
    return replace(
        spec,
        id=spec.id or options.get("name") or (address if port == AGENT_PORT else options["agent"]),
        address=address,
        port=port,
        name=options.get("name", ""),
        credentials=options.get("credentials", ""),
        listen=_parse_port(text, "listen", options["listen"]) if "listen" in options else 0,
    )


def format_spec(spec: HostSpec) -> str:
    """Return the spec as a user can type it in any folder."""
    kind, values = spec.kind, [("python", spec.python)]
    if kind == "agent":
        address = f"[{spec.address}]" if ":" in spec.address else spec.address
        kind += f"={address}" + (f":{spec.port}" if spec.port != AGENT_PORT else "")
        values += [("name", spec.name), ("credentials", spec.credentials)]
        values += [("listen", str(spec.listen) if spec.listen else "")]
    elif kind == "ssh":
        kind += f"={spec.address}"
        values += [("ssh_config", spec.ssh_config)]
    values += [("slots", str(spec.slots) if spec.slots else ""), ("labels", "+".join(spec.labels))]
    text = "//".join([kind, *(f"{key}={value}" for key, value in values if value)])
    return text if _parse_spec(text, {}).id == spec.id else f"{text}//id={spec.id}"


_COMPLETE_BY_KIND = {"agent": _complete_agent, "popen": _complete_popen, "ssh": _complete_ssh}


def _parse_agent_address(text: str, value: str) -> tuple[str, int]:
    if "@" in value:
        raise InvalidHostSpec(
            f"host spec {text!r}: an agent runs as its own user; write agent=HOST"
        )
    if value.count(":") > 1 and not value.startswith("["):
        return value, AGENT_PORT
    found = re.fullmatch(r"(\[[^\]]+\]|[^\s:\[\]]+)(?::(.*))?", value)
    if not found:
        raise InvalidHostSpec(
            f"host spec {text!r}: agent= needs a host, as in agent=host1 or host1:7422"
        )
    port = AGENT_PORT if found[2] is None else _parse_port(text, "the port", found[2])
    return found[1].strip("[]"), port


def _parse_port(text: str, what: str, value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise InvalidHostSpec(
            f"host spec {text!r}: {what} must be a number from 1 to 65535, not {value!r}"
        )
    return int(value)


def _parse_labels(text: str, value: str | None) -> tuple[str, ...]:
    """Parse ``docker+gpu``; labels are not separated by commas, which end a spec."""
    if value is None:
        return ()
    labels = value.split("+")
    for label in labels:
        if not re.fullmatch(r"\w[\w.-]*", label):
            raise InvalidHostSpec(
                f"host spec {text!r}: {label!r} is not a label; write //labels=docker+gpu"
            )
    return tuple(dict.fromkeys(labels))


def _parse_slots(text: str, value: str) -> int:
    if not (value.isdecimal() and len(value) < 9 and 0 < int(value) <= MAX_SLOTS):
        raise InvalidHostSpec(
            f"host spec {text!r}: slots must be a whole number, 1 to {MAX_SLOTS}, not {value!r}"
        )
    return int(value)
