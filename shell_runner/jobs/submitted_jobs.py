"""Local records of the jobs that were submitted from here: which host has which job.

Responsible for a folder with one small file for each job in the user's state folder.  The records
are a convenience: a host knows its jobs without them.
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

#: Minimum number of characters of a UUID that a user types to name a job.
MIN_ID_CHARS = 4
#: Seconds after which a record is removed.
_MAX_AGE = 366 * 86_400.0


@dataclass(frozen=True)
class SubmittedJob:
    """A job that was submitted from here."""

    id: str
    host: HostSpec
    #: Seconds since the epoch.
    submitted_at: float
    name: str = ""


def records_folder() -> Path:
    """Return ``$XDG_STATE_HOME/nosejobs/submitted``; by default below ``~/.local/state``."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.local/state")
    return Path(base, "nosejobs", "submitted")


def add(record: SubmittedJob) -> None:
    """Record a job.  Call it before submitting, so that a crash cannot lose where the job is.

    Raises :exc:`UsageError` if the record cannot be written.
    """
    path = records_folder() / f"{record.id}.json"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".json")
        with open(descriptor, "w", encoding="ascii") as file:
            json.dump(_to_json(record), file)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _to_json(record: SubmittedJob) -> dict[str, Any]:
    host = dataclasses.asdict(record.host)
    for key in ("ssh_config", "credentials"):  # later commands may run in another folder
        if "/" in host[key] or os.path.exists(host[key]):
            host[key] = os.path.abspath(os.path.expanduser(host[key]))
    return {**dataclasses.asdict(record), "host": host}


def remove(job: str) -> None:
    """Remove the record of a job, if there is one."""
    with contextlib.suppress(OSError):
        (records_folder() / f"{job}.json").unlink()


def find(text: str) -> SubmittedJob | None:
    """Return the job whose UUID begins with ``text``; None if there is none.

    Raises :exc:`UsageError` if there are several.
    """
    try:
        names = [each.removesuffix(".json") for each in os.listdir(records_folder())]
    except OSError:
        return None
    ids = sorted(name for name in names if is_uuid(name) and name.startswith(text))
    if len(ids) > 1:
        raise UsageError(f"several jobs begin with {text!r}: {', '.join(ids[:5])}")
    return _read_record(records_folder() / f"{ids[0]}.json") if ids else None


def list_all() -> list[SubmittedJob]:
    """Return all recorded jobs, the newest first; remove records older than a year."""
    records = []
    try:
        paths = [each for each in records_folder().iterdir() if is_uuid(each.stem)]
    except OSError:
        return []
    for path in paths:
        record = _read_record(path)
        if record is not None and 0 <= record.submitted_at < time.time() - _MAX_AGE:
            remove(record.id)
        elif record is not None:
            records.append(record)
    return sorted(records, key=lambda record: record.submitted_at, reverse=True)


def _read_record(path: Path) -> SubmittedJob | None:
    """Return a record; None if another version wrote it, or it is damaged."""
    try:
        values = json.loads(path.read_bytes())
        host = values["host"]
        known = {each.name: host[each.name] for each in dataclasses.fields(HostSpec)}
        spec = HostSpec(**{**known, "labels": tuple(known["labels"])})
        return SubmittedJob(path.stem, spec, float(values["submitted_at"]), str(values["name"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
