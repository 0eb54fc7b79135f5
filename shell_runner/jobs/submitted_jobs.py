"""Which job is at which host, as far as it was handed in from here.

Owns a folder with one small file for each job in the user's state folder.  It is for
convenience: a host knows its jobs without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..hosts.spec import HostSpec
from ..remote.protocol.job import is_uuid

#: Characters of a job's UUID that are enough, if no other one begins so.
SHORTEST = 4
#: Seconds after which a job that nobody has forgotten is no more on record.
_OLD = 366 * 86_400.0


@dataclass(frozen=True)
class Record:
    """A job that was handed in from here."""

    id: str
    host: HostSpec
    #: Seconds since the epoch.
    date: float
    name: str = ""


def folder() -> Path:
    """``$XDG_STATE_HOME/nosejobs/submitted``, else below ``~/.local/state``."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.local/state")
    return Path(base, "nosejobs", "submitted")


def add(record: Record) -> None:
    """Remember a job, before it is handed in: else a crash could lose where it is."""
    path = folder() / f"{record.id}.json"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".json")
        with open(descriptor, "w", encoding="ascii") as file:
            json.dump(_values(record), file)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _values(record: Record) -> dict[str, Any]:
    host = dataclasses.asdict(record.host)
    for key in ("ssh_config", "credentials"):  # other commands are given elsewhere
        if "/" in host[key] or os.path.exists(host[key]):
            host[key] = os.path.abspath(os.path.expanduser(host[key]))
    return {**dataclasses.asdict(record), "host": host}


def remove(job: str) -> None:
    """Nobody will ask for it again."""
    with contextlib.suppress(OSError):
        (folder() / f"{job}.json").unlink()


def find(text: str) -> Record | None:
    """The job whose UUID begins with ``text``; None if there is none; UsageError for several."""
    try:
        names = [each.removesuffix(".json") for each in os.listdir(folder())]
    except OSError:
        return None
    found = sorted(name for name in names if is_uuid(name) and name.startswith(text))
    if len(found) > 1:
        raise UsageError(f"several jobs begin with {text!r}: {', '.join(found[:5])}")
    return _read(folder() / f"{found[0]}.json") if found else None


def everything() -> list[Record]:
    """All that is on record, the newest first; what is old is forgotten."""
    found = []
    try:
        paths = [each for each in folder().iterdir() if is_uuid(each.stem)]
    except OSError:
        return []
    for path in paths:
        record = _read(path)
        if record is not None and 0 <= record.date < time.time() - _OLD:
            remove(record.id)
        elif record is not None:
            found.append(record)
    return sorted(found, key=lambda record: record.date, reverse=True)


def _read(path: Path) -> Record | None:
    """None for what another version, or a full disk, has made of it."""
    try:
        values = json.loads(path.read_bytes())
        host = values["host"]
        known = {each.name: host[each.name] for each in dataclasses.fields(HostSpec)}
        spec = HostSpec(**{**known, "labels": tuple(known["labels"])})
        return Record(path.stem, spec, float(values["date"]), str(values["name"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
