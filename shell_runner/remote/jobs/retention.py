"""What a host lets go of: workspaces, packages and logs of forgotten jobs, contents of none.

Owns the removal of files below a queue's folder.  Must not know processes.  Whatever is removed
here belongs to nobody: a job that is not harvested stays.
"""

import json
import os
import time
from typing import List, Set

from ..files import blob_store, cache_eviction, manifest
from ..files import remove_tree as place
from ..protocol.job import TREE
from ..protocol.model import ERROR, FAILED
from . import paths as layout
from . import states
from .queue import AttemptRow, How, JobRow, Queue, Refused

#: Seconds after which code that nobody used is removed.
_OLD_CODE = 30 * 86_400.0


def is_kept(queue: Queue, job: JobRow, attempts: List[AttemptRow]) -> bool:
    """Whether somebody wants to look at the workspace of its last attempt."""
    if attempts and job.config.keep_workspace == "failed":
        outcomes = queue.outcomes(attempts[-1].id)
        return job.how != How.COMPLETED or bool(outcomes.get(FAILED) or outcomes.get(ERROR))
    return job.config.keep_workspace == "always"


def clear_workspaces(folder: str, job: JobRow, attempts: List[AttemptRow], stays: bool) -> None:
    """The package is made: the workspaces of a job go, but for the last one if it ``stays``."""
    for attempt in attempts[:-1] if stays else attempts:
        place.remove_tree(layout.work(folder, attempt.id))
    if stays and attempts:
        with open(layout.kept(folder, attempts[-1].id), "w") as file:
            file.write(job.id)


def forget_overdue(queue: Queue, folder: str) -> None:
    """Packages beyond what the host has been told to keep, with all that is known of their jobs."""
    for job in queue.overdue():
        try:
            forget(queue, folder, job, force=True)
        except Refused:
            continue


def forget(queue: Queue, folder: str, job: JobRow, force: bool) -> None:
    """Let go of its files, then of its rows.

    Whoever dies in between, or has no room on the disk for the change of the rows, can do it
    again; files without a row would be nobody's, for ever.
    """
    queue.require_forgettable(job, force)
    _remove_files(folder, job.id, [each.id for each in queue.attempts(job.number)])
    queue.forget(job, force)


def _remove_files(folder: str, job: str, attempts: List[str]) -> None:
    """Package, logs and workspaces of a job."""
    paths = [layout.package(folder, job)]
    for attempt in attempts:
        place.remove_tree(layout.work(folder, attempt))
        paths += [layout.kept(folder, attempt), layout.log(folder, attempt)]
        paths.append(layout.host(folder, attempt))
    for path in paths:
        _unlink(path)


def sweep(queue: Queue, folder: str) -> None:
    """At the start of a worker: workspaces that no job needs any more.

    Those of jobs whose package is still to be made, and those that are kept, stay.
    """
    needed: Set[str] = set()
    for job in queue.packaging():
        needed.update(each.id for each in queue.attempts(job.number))
    for name in _names(layout.work(folder)):
        attempt = name.partition(".")[0]
        if attempt in needed:
            continue
        if not _has_job(queue, layout.kept(folder, attempt)):
            place.remove_tree(layout.work(folder, attempt))
            _unlink(layout.kept(folder, attempt))


def sweep_code(queue: Queue, folder: str, own: str) -> None:
    """Code that nobody has brought or run for long, and no job waits for."""
    before = time.time() - _OLD_CODE
    for digest in _names(layout.code(folder)):
        path = layout.code(folder, digest)
        try:
            is_old = os.lstat(path).st_mtime < before
        except OSError:
            continue
        if is_old and digest != own and not _is_wanted(queue, digest):
            place.remove_tree(path)


def _is_wanted(queue: Queue, code: str) -> bool:
    last = 0
    while True:
        jobs = queue.jobs(states.UNFINISHED, before=last)
        if any(job.code == code for job in jobs):
            return True
        if not jobs:
            return False
        last = jobs[-1].number


def _has_job(queue: Queue, mark: str) -> bool:
    """Whether a workspace is kept for a job that is still known."""
    try:
        with open(mark) as file:
            queue.find(file.read(64))
        return True
    except (OSError, ValueError, Refused):
        return False


def sweep_contents(queue: Queue, folder: str) -> int:
    """Contents that no job refers to, beyond the bound: least used first; how many files went."""
    there = layout.contents(folder)

    def referred() -> Set[str]:
        found: Set[str] = set()
        for kind, digest, size in queue.referred():
            found |= _parts(blob_store.Store(there), kind, digest, size)
        return found

    return cache_eviction.evict_to_limit(there, queue.setting("contents_bytes"), referred)


def _parts(there: blob_store.Store, kind: str, digest: str, size: int) -> Set[str]:
    """All files that one content needs: of a tree its manifest, the parts of that, and files."""
    found = {digest}
    if kind != TREE:
        return found
    try:
        entries, _ = there.manifest(digest, size)
        with open(there.path(digest), "rb") as file:
            found.update(part for part, _ in json.loads(file.read().decode("ascii")))
    except (OSError, ValueError, TypeError):
        return found  # spoilt, or not all here: its job is refused when its turn comes
    found.update(entry.digest for entry in entries if entry.kind == manifest.FILE)
    return found


def _names(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
