"""A watched git repository: its branches, the commits between two revisions, and its files.

Owns the bare mirror of the repository.  Must not know builds or the database.  The contents of a
repository are not trusted: files are written byte by byte as they were committed, by ``checkout``
and not by git, so that no hook, filter, submodule or attribute of a tree has an effect.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from shell_runner.text import escape_unprintable

from ..configuration.settings import TEMPORARY_PREFIX
from ..policy.revision_selection import Commit
from .checkout import (
    CHUNK_SIZE,
    MAX_LINE_CHARS,
    ReadEntry,
    TreeEntry,
    display_path,
    parse_entry,
    write_atomically,
    write_entries,
)
from .git_command import (
    SourceError,
    check_address,
    failure_reason,
    hide_password,
    is_revision,
    run_git,
    start_git,
)
from .source import CommitRange, Heads

#: Maximum number of commits between two revisions that are listed, the newest ones.
_MAX_COMMITS = 200
#: Maximum number of entries of a tree.
_MAX_TREE_ENTRIES = 500_000
#: Maximum number of bytes of all files of a tree.
_MAX_TREE_BYTES = 16 << 30
#: Bytes of the list of branches.
_MAX_BRANCH_LIST_BYTES = 16 << 20
#: Bytes of a list of commits, or of changed paths.
_MAX_HISTORY_BYTES = 16 << 20
#: Bytes of the list of a tree's files.
_MAX_FILE_LIST_BYTES = 256 << 20
#: Age, in seconds, from which on a lock file in a mirror was left by a git that was killed.
_STALE_LOCK_AGE = 60.0
#: Patterns of the lock files that git holds while it writes refs.
_LOCK_PATTERNS = ("*.lock", "refs/**/*.lock")
#: Pattern of objects and packs that git has not finished.
_UNFINISHED_PATTERN = "objects/*/tmp_*"
#: Parts of git's error messages if the mirror itself is broken.
_BROKEN_MIRROR_ERRORS = (
    "not a git repository", "corrupt", "bad object", "unable to read", "loose object",
    "missing necessary objects", "did not send all necessary", "invalid sha1", "bad config",
    "mismatched algorithms", "not a valid object", "missing blob", "missing tree",
)  # fmt: skip
#: Parts of git's error messages if one branch cannot be fetched or stored: it is no commit, its
#: object is missing, its name is too long or is the folder of another branch.
_BAD_BRANCH_ERRORS = ("cannot update ref", "cannot lock ref", "not our ref", "non-commit object")
#: Part of git's error message if another git holds, or has left, a lock.
_LOCK_EXISTS = ".lock': File exists"
#: Maximum number of branches that are fetched one by one in one poll.
_MAX_SINGLE_FETCHES = 100
#: Seconds until a branch that could not be fetched is tried again, unless it moves.
_BAD_BRANCH_RETRY_DELAY = 600.0
#: Error messages of the system for a full or broken disk.
_DISK_ERRORS = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)))


class GitSource:
    """A git repository, and the dispatcher's mirror of it."""

    def __init__(
        self, address: str, mirror: Path, *, timeout: float = 60.0, transfer_timeout: float = 1800.0
    ) -> None:
        """``timeout``: seconds for a request; ``transfer_timeout``: for a fetch or a checkout."""
        self.address = check_address(address)
        self.mirror = mirror
        self._timeout = timeout
        self._transfer_timeout = transfer_timeout
        self._lock = threading.Lock()
        #: Revision and error of branches that could not be fetched, by branch.
        self._refused: dict[str, tuple[str, str]] = {}
        #: Monotonic time at which they are tried again.
        self._retry_refused_at = 0.0

    def heads(self) -> dict[str, str]:
        """Ask the repository for its branches, and fetch if the mirror differs.

        A branch that cannot be fetched keeps its last revision, and does not block the others.
        """
        try:
            remote = list_branches(self.address, self._timeout)
        except SourceError as error:
            raise SourceError(f"{hide_password(self.address)} cannot be read: {error}") from error
        with self._lock:
            self._refused = {
                branch: (revision, error)
                for branch, (revision, error) in self._refused.items()
                if remote.get(branch) == revision
            }
            if not self._is_current(remote):
                self._refused = {}
                self._fetch_with_repair(remote)
            heads = self._read_mirror()
        if heads is None:
            raise SourceError(f"{self.mirror} is not a mirror of {hide_password(self.address)}")
        return Heads(heads, self._describe_refused())

    def _is_current(self, remote: Mapping[str, str]) -> bool:
        """Return whether the mirror has all branches but those that were refused a moment ago."""
        mirror = self._read_mirror()
        if mirror is None or (self._refused and time.monotonic() >= self._retry_refused_at):
            return False
        return _without(remote, self._refused) == _without(mirror, self._refused)

    def _describe_refused(self) -> str:
        """Return which branches cannot be fetched, and why; empty: none."""
        if not self._refused:
            return ""
        branch, (_, reason) = min(self._refused.items())
        more = f" (and {len(self._refused) - 1} more)" if len(self._refused) > 1 else ""
        return f"branch {_to_line(branch)} cannot be fetched{more}: {_to_line(reason)}"

    def commits_between(self, before: str, revision: str) -> CommitRange:
        """Read commits from the mirror, which has all revisions that ``heads`` returned."""
        forced = bool(before) and not self._is_ancestor(before, revision)
        if forced or not before:
            return CommitRange(tuple(self._commits(revision, 1)), forced)
        commits = self._commits(
            f"{_check_revision(before)}..{_check_revision(revision)}", _MAX_COMMITS
        )
        return CommitRange(tuple(self._add_paths(before, commits)))

    def checkout(self, revision: str, folder: Path) -> None:
        """Write files as they were committed: without conversion, filters and submodules."""
        if folder.is_dir():
            return
        what = f"revision {_check_revision(revision)[:12]}"
        with write_atomically(folder, what) as part:
            entries = self._list_files(revision)
            with _open_contents(self.mirror, entries, self._transfer_timeout) as read:
                write_entries(os.fsencode(part), entries, read, what)

    def clean_up(self) -> None:
        """Pack the mirror and remove objects that no branch has reached for 90 days.

        ``heads`` waits meanwhile.  Raises SourceError if git fails or exceeds the time limit; its
        unfinished files are then removed.
        """
        with self._lock:
            if self._read_mirror() is None:
                return
            try:
                self._run("gc", "--quiet", "--prune=90.days.ago", timeout=self._transfer_timeout)
            except SourceError as error:
                # An unfinished pack may be as large as the mirror.
                _remove_files(self.mirror, _UNFINISHED_PATTERN)
                raise SourceError(f"{self.mirror} cannot be packed: {error}") from error

    # -- the mirror --

    def _read_mirror(self) -> dict[str, str] | None:
        """Return the revision of each branch in the mirror; None if it is missing or broken."""
        if not (self.mirror / "HEAD").is_file():
            return None
        command = ("for-each-ref", "--format=%(objectname)%09%(refname)", "refs/heads/")
        try:
            output = self._run(*command, max_bytes=_MAX_BRANCH_LIST_BYTES)
        except SourceError:
            return None
        return _parse_refs(line.split(b"\t", 1) for line in output.splitlines())

    def _fetch_with_repair(self, remote: Mapping[str, str]) -> None:
        """Fetch all branches; after an error, repair or replace the mirror and fetch once more."""
        try:
            self._create_mirror(remote)
            self._fetch()
        except SourceError as error:
            message = str(error)
            _remove_files(
                self.mirror, _UNFINISHED_PATTERN
            )  # git leaves them if the disk is full, and it stays full
            if self._fetch_others(remote, message):
                return
            if not self._repair(message):
                address = hide_password(self.address)
                raise SourceError(f"{address} cannot be fetched: {message}") from error
            self._create_mirror(remote)
            self._fetch()

    def _create_mirror(self, remote: Mapping[str, str]) -> None:
        """Create the mirror if there is none, with the hash function of the remote revisions."""
        if (self.mirror / "HEAD").is_file():
            return
        sha256 = any(len(revision) == 64 for revision in remote.values())
        kind = "--object-format=sha256" if sha256 else "--object-format=sha1"
        shutil.rmtree(self.mirror, ignore_errors=True)
        self.mirror.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=self.mirror.parent))
        run_git("init", "--quiet", "--bare", "--template=", kind, "--", os.fspath(part))
        part.rename(self.mirror)

    def _fetch_others(self, remote: Mapping[str, str], message: str) -> bool:
        """Fetch branches one by one if one of them is the reason of the error.

        Return whether any branch is as in the repository; the others are remembered.
        """
        if any(error in message for error in (*_DISK_ERRORS, _LOCK_EXISTS)):
            return False
        if not any(error in message for error in _BAD_BRANCH_ERRORS):
            return False
        mirror = self._read_mirror() or {}
        differing = [branch for branch in remote if mirror.get(branch) != remote[branch]]
        refused: dict[str, tuple[str, str]] = {}
        for branch in differing[:_MAX_SINGLE_FETCHES]:
            try:
                self._fetch(f"+refs/heads/{branch}:refs/heads/{branch}")
            except SourceError as error:
                refused[branch] = remote[branch], str(error)
        self._refused = refused
        self._retry_refused_at = time.monotonic() + _BAD_BRANCH_RETRY_DELAY
        return len(refused) < len(remote)

    def _fetch(self, branches: str = "+refs/heads/*:refs/heads/*") -> None:
        """Fetch all branches, and nothing else that a server may offer."""
        options = ("--quiet", "--prune", "--force", "--no-tags", "--no-recurse-submodules")
        more = ("--no-auto-maintenance", "--no-write-fetch-head", "--no-show-forced-updates")
        command = ("fetch", *options, *more, "--", self.address, branches)
        self._run(*command, timeout=self._transfer_timeout, address=self.address)

    def _repair(self, message: str) -> bool:
        """Repair the mirror if git's error message says how; return whether to fetch once more."""
        if any(error in message for error in _DISK_ERRORS):
            return False  # an intact mirror must not be removed because the disk is full
        if ".lock'" in message or "cannot lock ref" in message:
            return _remove_stale_locks(self.mirror)
        signs = (*_BROKEN_MIRROR_ERRORS, f"{self.mirror}/objects/")
        if "remote:" not in message and any(sign in message for sign in signs):
            shutil.rmtree(self.mirror, ignore_errors=True)
            return True
        return False

    def _run(
        self,
        *arguments: str,
        timeout: float | None = None,
        max_bytes: int = _MAX_HISTORY_BYTES,
        address: str = "",
        stdin: bytes = b"",
    ) -> bytes:
        """Run a git command in the mirror, and return its output."""
        return run_git(
            *arguments,
            repository=self.mirror,
            timeout=timeout or self._timeout,
            max_bytes=max_bytes,
            address=address,
            stdin=stdin,
        )

    # -- its history --

    def _is_ancestor(self, before: str, revision: str) -> bool:
        command = (
            "merge-base",
            "--is-ancestor",
            _check_revision(before),
            _check_revision(revision),
        )
        with contextlib.suppress(SourceError):  # the older commit does not exist any more
            self._run(*command)
            return True
        return False

    def _commits(self, commits: str, limit: int) -> list[Commit]:
        """Return the newest commits along the branch, oldest first; a merge is one commit.

        ``commits`` is a revision or a range.  Names and subjects can be of any size; if git's
        output is too large, they are left out, so that no commit can stop the others.
        """
        try:
            output = self._log(commits, limit, "%<(2000,trunc)%an%n%<(2000,trunc)%s")
        except SourceError:
            output = self._log(commits, limit, "%n")
        rows = [row.split("\n", 2) for row in output.split("\0") if row]
        return [
            Commit(revision, _to_line(author), _to_line(subject))
            for revision, author, subject in rows
        ]

    def _log(self, commits: str, limit: int, fields: str) -> str:
        options = ("--first-parent", "--reverse", "--no-notes", f"--max-count={limit}")
        command = ("log", "-z", *options, f"--format=%H%n{fields}", commits, "--")
        return self._run(*command, max_bytes=_MAX_HISTORY_BYTES).decode("utf-8", "surrogateescape")

    def _add_paths(self, before: str, commits: Sequence[Commit]) -> list[Commit]:
        """Add the paths that each commit changed; none at all if git's output is too large."""
        parents = [before, *(commit.revision for commit in commits)]
        pairs = zip(commits, parents, strict=False)
        stdin = "".join(f"{commit.revision} {parent}\n" for commit, parent in pairs)
        command = ("diff-tree", "--stdin", "-r", "-z", "--raw", "--no-renames", "--root")
        try:
            output = self._run(*command, stdin=stdin.encode())
        except SourceError:
            return list(commits)
        paths = _parse_changed_paths(output)
        return [replace(commit, paths=tuple(paths.get(commit.revision, ()))) for commit in commits]

    # -- its files --

    def _list_files(self, revision: str) -> list[TreeEntry]:
        command = ("ls-tree", "-r", "-z", "-l", "--full-tree", _check_revision(revision))
        output = self._run(*command, max_bytes=_MAX_FILE_LIST_BYTES, timeout=self._transfer_timeout)
        entries = [parse_entry(row) for row in output.split(b"\0") if row]
        size = sum(entry.size for entry in entries)
        if len(entries) > _MAX_TREE_ENTRIES or size > _MAX_TREE_BYTES:
            raise SourceError(f"its tree is too large: {len(entries)} files, {size} bytes")
        return entries


def _check_revision(revision: str) -> str:
    """Return a revision that git may be given, or raise SourceError."""
    if not is_revision(revision):
        raise SourceError(f"{escape_unprintable(revision)!r} is not a revision of a repository")
    return revision


def list_branches(address: str, timeout: float) -> dict[str, str]:
    """Return the revisions of a repository's branches, by branch; ``timeout``: seconds.

    Raises SourceError if the repository cannot be read.
    """
    command = ("ls-remote", "--heads", "--", address)
    output = run_git(*command, timeout=timeout, max_bytes=_MAX_BRANCH_LIST_BYTES, address=address)
    return _parse_refs(line.split(b"\t", 1) for line in output.splitlines())


def _without(heads: Mapping[str, str], branches: Collection[str]) -> dict[str, str]:
    return {branch: heads[branch] for branch in heads if branch not in branches}


def _parse_refs(rows: Iterable[Sequence[bytes]]) -> dict[str, str]:
    """Return revision by branch, with branch names that can be shown."""
    heads = [(row[0].decode("ascii", "replace"), row[1]) for row in rows if len(row) == 2]
    prefix = b"refs/heads/"
    return {
        escape_unprintable(name[len(prefix) :].decode("utf-8", "surrogateescape")): revision
        for revision, name in heads
        if name.startswith(prefix)
        and is_revision(revision)
        # "NAME^{}" is not a branch, but the target of a tag object in the place of a branch.
        and not name.endswith(b"^{}")
    }


def _to_line(text: str) -> str:
    """Return a text from a repository as one printable line of limited length."""
    text = escape_unprintable(" ".join(text.split()))
    return text if len(text) <= MAX_LINE_CHARS else f"{text[:MAX_LINE_CHARS]} ..."


def _parse_changed_paths(output: bytes) -> dict[str, list[str]]:
    """Parse paths by commit from the raw output of diff-tree: ``HASH :modes path ...``."""
    paths: dict[str, list[str]] = {}
    current: list[str] = []
    tokens = iter(output.split(b"\0"))
    for token in tokens:
        if token.startswith(b":"):
            current.append(os.fsdecode(next(tokens)))
        elif token:
            current = paths.setdefault(token.split()[0].decode(), [])
    return paths


def _remove_files(mirror: Path, *patterns: str) -> None:
    """Remove the files of a mirror that match one of the patterns."""
    for path in [each for pattern in patterns for each in mirror.glob(pattern)]:
        path.unlink(missing_ok=True)


def remove_leftovers(mirror: Path) -> None:
    """Remove lock files and unfinished packs; call it only while no git works on ``mirror``."""
    _remove_files(mirror, *_LOCK_PATTERNS, _UNFINISHED_PATTERN)


def _remove_stale_locks(mirror: Path) -> bool:
    """Remove lock files that are too old to be held by git; return whether there were any."""
    before = time.time() - _STALE_LOCK_AGE
    locks = [path for pattern in _LOCK_PATTERNS for path in mirror.glob(pattern)]
    stale = [path for path in locks if path.stat().st_mtime < before]
    for path in stale:
        path.unlink(missing_ok=True)
    return bool(stale)


@contextlib.contextmanager
def _open_contents(
    mirror: Path, entries: Sequence[TreeEntry], timeout: float
) -> Iterator[ReadEntry]:
    """Start one git process that prints the contents of all entries, in their order."""
    wanted = [entry.object + b"\n" for entry in entries if not entry.is_submodule]
    with start_git(("cat-file", "--batch", "--buffer"), mirror, stdin=b"".join(wanted)) as process:
        out = process.stdout
        assert out
        watchdog = threading.Timer(timeout, process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield lambda entry: _read_blob(out, entry, lambda: failure_reason(process))
        finally:
            watchdog.cancel()


def _read_blob(out: IO[bytes], entry: TreeEntry, get_error: Callable[[], str]) -> Iterator[bytes]:
    """Yield one blob from the output of ``git cat-file --batch``.

    Raises SourceError, with the message of ``get_error``, if git has failed.
    """
    head = out.readline(200)
    if head != b"%b blob %d\n" % (entry.object, entry.size):
        raise SourceError(
            f"{display_path(entry.path)}: {display_path(head).strip() or get_error()}"
        )
    left = entry.size
    while left:
        chunk = out.read(min(left, CHUNK_SIZE))
        if not chunk:
            raise SourceError(f"{display_path(entry.path)}: {get_error()}")
        left -= len(chunk)
        yield chunk
    out.read(1)
