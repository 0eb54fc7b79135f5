"""Removal of files below a queue's folder that no job needs: workspaces, packages, logs, contents,
code.

Must not know processes. A job that was not harvested keeps its files.
"""

import json
import os
import time
from typing import List, Set

from ..files import blob_store, cache_eviction, manifest
from ..files.remove_tree import remove_tree
from ..protocol.job import TREE
from ..protocol.model import ERROR, FAILED
from . import paths, states
from .queue import AttemptRow, EndReason, JobRow, Queue, RequestRefused

#: Seconds after which unused code is removed.
_UNUSED_CODE_TIMEOUT = 30 * 86_400.0


def is_workspace_kept(queue: Queue, job: JobRow, attempts: List[AttemptRow]) -> bool:
    """Return whether the job's ``keep_workspace`` keeps the workspace of its last attempt."""
    if attempts and job.config.keep_workspace == "failed":
        outcomes = queue.count_outcomes(attempts[-1].id)
        return job.end_reason != EndReason.COMPLETED or bool(
            outcomes.get(FAILED) or outcomes.get(ERROR)
        )
    return job.config.keep_workspace == "always"


def remove_workspaces(
    folder: str, job: JobRow, attempts: List[AttemptRow], keep_last: bool
) -> None:
    """Remove the workspaces of a job after its package was built.

    ``keep_last``: the workspace of the last attempt stays, and a marker file names its job.
    """
    for attempt in attempts[:-1] if keep_last else attempts:
        remove_tree(paths.workspace_path(folder, attempt.id))
    if keep_last and attempts:
        with open(paths.kept_marker_path(folder, attempts[-1].id), "w") as file:
            file.write(job.id)


def forget_overdue_jobs(queue: Queue, folder: str) -> None:
    """Forget the jobs whose packages exceed the limits of the host, with all their files."""
    for job in queue.list_overdue():
        try:
            forget_job(queue, folder, job, force=True)
        except RequestRefused:
            continue


def forget_job(queue: Queue, folder: str, job: JobRow, force: bool) -> None:
    """Remove the files of a job, then its rows.

    In this order a process that dies in between, or has no room on the disk to change the rows, can
    repeat it; files without a row would stay for ever. Raises RequestRefused if the job may not be
    forgotten.
    """
    queue.check_forgettable(job, force)
    _remove_files(folder, job.id, [each.id for each in queue.get_attempts(job.number)])
    queue.forget(job, force)


def _remove_files(folder: str, job: str, attempts: List[str]) -> None:
    """Remove package, logs and workspaces of a job."""
    files = [paths.package_path(folder, job)]
    for attempt in attempts:
        remove_tree(paths.workspace_path(folder, attempt))
        files += [paths.kept_marker_path(folder, attempt), paths.log_path(folder, attempt)]
        files.append(paths.host_facts_path(folder, attempt))
    for path in files:
        _unlink(path)


def remove_unused_workspaces(queue: Queue, folder: str) -> None:
    """Remove workspaces that no job needs; called when a worker starts.

    Workspaces of jobs whose packages are still to be built, and kept ones, stay.
    """
    needed: Set[str] = set()
    for job in queue.list_packaging():
        needed.update(each.id for each in queue.get_attempts(job.number))
    for name in _list_folder(paths.workspace_path(folder)):
        attempt = name.partition(".")[0]
        if attempt in needed:
            continue
        if not _has_job(queue, paths.kept_marker_path(folder, attempt)):
            remove_tree(paths.workspace_path(folder, attempt))
            _unlink(paths.kept_marker_path(folder, attempt))


def remove_unused_code(queue: Queue, folder: str, own: str) -> None:
    """Remove code that was not used for ``_UNUSED_CODE_TIMEOUT`` and that no job waits for.

    ``own`` is the digest of the code that is running.
    """
    oldest = time.time() - _UNUSED_CODE_TIMEOUT
    for digest in _list_folder(paths.code_path(folder)):
        path = paths.code_path(folder, digest)
        try:
            is_old = os.lstat(path).st_mtime < oldest
        except OSError:
            continue
        if is_old and digest != own and not _is_code_needed(queue, digest):
            remove_tree(path)


def _is_code_needed(queue: Queue, code: str) -> bool:
    number = 0
    while True:
        jobs = queue.list_jobs(states.UNFINISHED_STATES, before=number)
        if any(job.code == code for job in jobs):
            return True
        if not jobs:
            return False
        number = jobs[-1].number


def _has_job(queue: Queue, marker: str) -> bool:
    """Return whether the marker of a kept workspace names a job that is in the queue."""
    try:
        with open(marker) as file:
            queue.find(file.read(64))
        return True
    except (OSError, ValueError, RequestRefused):
        return False


def evict_contents(queue: Queue, folder: str) -> int:
    """Remove the least recently used contents that no job refers to, down to the limit of the host.

    Returns the number of removed files.
    """
    store = blob_store.BlobStore(paths.contents_path(folder))

    def collect_referenced() -> Set[str]:
        digests: Set[str] = set()
        for kind, digest, size in queue.get_referenced_contents():
            digests |= _needed_digests(store, kind, digest, size)
        return digests

    limit = queue.get_setting("contents_bytes")
    return cache_eviction.evict_to_limit(paths.contents_path(folder), limit, collect_referenced)


def _needed_digests(store: blob_store.BlobStore, kind: str, digest: str, size: int) -> Set[str]:
    """Return the digests of all files of a content: for a tree manifest, parts and files."""
    digests = {digest}
    if kind != TREE:
        return digests
    try:
        entries, _ = store.read_manifest(digest, size)
        with open(store.path(digest), "rb") as file:
            digests.update(part for part, _ in json.loads(file.read().decode("ascii")))
    except (OSError, ValueError, TypeError):
        return digests  # damaged or incomplete: its job is refused in its turn
    digests.update(entry.digest for entry in entries if entry.kind == manifest.FILE)
    return digests


def _list_folder(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
