"""A watched git repository: its branches, the commits between two revisions, and its files.

Owns the bare mirror of the repository.  Must not know builds or the database.  Whatever is in a
repository was written by a stranger: files are written byte by byte as they were committed, by
``checkout`` and not by git, so that no hook, filter, submodule or attribute of a tree does
anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from shell_runner.text import printable

from ..configuration.settings import PART
from ..policy.change_detection import Commit
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
from .git_command import SourceError, check_address, git, is_revision, last_words, shown, started
from .source import CommitRange

#: Commits between two revisions that are listed, the newest ones.
_COMMITS = 200
#: Bounds of a tree: entries, bytes of all files.
_ENTRIES = 500_000
_BYTES = 16 << 30
#: Bytes of the lists of branches, of paths that changed, of files.
_BRANCHES = 16 << 20
_PATHS = 16 << 20
_FILES = 256 << 20
#: Seconds after which a lock file in a mirror is one that a killed git has left.
_STALE = 60.0
#: What git holds while it writes refs, and objects and packs that it has not finished.
_LOCKS, _HALF = ("*.lock", "refs/**/*.lock"), "objects/*/tmp_*"
#: What git says if the mirror itself is broken.
_BROKEN = (
    "not a git repository", "corrupt", "bad object", "unable to read", "loose object",
    "missing necessary objects", "did not send all necessary", "invalid sha1", "bad config",
    "mismatched algorithms", "not a valid object", "missing blob", "missing tree",
)  # fmt: skip
#: What the system says if it is the disk.
_FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)))


class GitSource:
    """A repository, and the dispatcher's mirror of it."""

    def __init__(
        self, address: str, mirror: Path, *, timeout: float = 60.0, patience: float = 1800.0
    ) -> None:
        self.address = check_address(address)
        self.mirror = mirror
        #: Seconds for a question, and for all of the history.
        self._timeout = timeout
        self._patience = patience
        self._turn = threading.Lock()

    def heads(self) -> dict[str, str]:
        """Ask the repository for its branches; fetch if the mirror differs."""
        asked = ("ls-remote", "--heads", "--", self.address)
        try:
            told = self._ask(*asked, most=_BRANCHES, address=self.address)
        except SourceError as error:
            raise SourceError(f"{shown(self.address)} cannot be read: {error}") from error
        there = _refs(line.split(b"\t", 1) for line in told.splitlines())
        with self._turn:
            if there != self._mirrored():
                self._update(there)
            found = self._mirrored()
        if found is None:
            raise SourceError(f"{self.mirror} is no mirror of {shown(self.address)} any more")
        return found

    def between(self, before: str, revision: str) -> CommitRange:
        """Read the commits from the mirror, which has all revisions that ``heads`` returned."""
        forced = bool(before) and not self._is_ancestor(before, revision)
        if forced or not before:
            return CommitRange(tuple(self._commits(revision, 1)), forced)
        commits = self._commits(f"{_checked(before)}..{_checked(revision)}", _COMMITS)
        return CommitRange(tuple(self._with_paths(before, commits)))

    def checkout(self, revision: str, folder: Path) -> None:
        """Write files as they were committed: no conversion of line ends, filter or submodule."""
        if folder.is_dir():
            return
        what = f"revision {_checked(revision)[:12]}"
        with write_atomically(folder, what) as part:
            entries = self._entries(revision)
            with _contents(self.mirror, entries, self._patience) as read:
                write_entries(os.fsencode(part), entries, read, what)

    def tidy(self) -> None:
        """Pack the mirror and remove objects that no branch has reached for 90 days.

        ``heads`` waits meanwhile.  Raises SourceError if git fails or exceeds the time limit;
        what it has left half written is then removed.
        """
        with self._turn:
            if self._mirrored() is None:
                return
            try:
                self._run("gc", "--quiet", "--prune=90.days.ago", timeout=self._patience)
            except SourceError as error:
                _remove(self.mirror, _HALF)  # a pack that was not finished may be as large as all
                raise SourceError(f"{self.mirror} cannot be packed: {error}") from error

    # -- the mirror --

    def _mirrored(self) -> dict[str, str] | None:
        """Return the revision of each branch in the mirror; None if it is missing or broken."""
        if not (self.mirror / "HEAD").is_file():
            return None
        asked = ("for-each-ref", "--format=%(objectname)%09%(refname)", "refs/heads/")
        try:
            found = self._run(*asked, most=_BRANCHES)
        except SourceError:
            return None
        return _refs(line.split(b"\t", 1) for line in found.splitlines())

    def _update(self, there: Mapping[str, str]) -> None:
        """Fetch; once more after removing what a killed git has left, or with a new mirror."""
        try:
            self._prepare(there)
            self._fetch()
        except SourceError as error:
            words = str(error)
            _remove(self.mirror, _HALF)  # git leaves them if the disk is full, and it stays full
            if not self._repaired(words):
                raise SourceError(f"{shown(self.address)} cannot be fetched: {words}") from error
            self._prepare(there)
            self._fetch()

    def _prepare(self, there: Mapping[str, str]) -> None:
        if (self.mirror / "HEAD").is_file():
            return
        sha256 = any(len(revision) == 64 for revision in there.values())
        kind = "--object-format=sha256" if sha256 else "--object-format=sha1"
        shutil.rmtree(self.mirror, ignore_errors=True)
        self.mirror.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=PART, dir=self.mirror.parent))
        git("init", "--quiet", "--bare", "--template=", kind, "--", os.fspath(part))
        part.rename(self.mirror)

    def _fetch(self) -> None:
        """Fetch all branches, and nothing else that a server may offer."""
        options = ("--quiet", "--prune", "--force", "--no-tags", "--no-recurse-submodules")
        more = ("--no-auto-maintenance", "--no-write-fetch-head", "--no-show-forced-updates")
        every = "+refs/heads/*:refs/heads/*"
        command = ("fetch", *options, *more, "--", self.address, every)
        self._run(*command, timeout=self._patience, address=self.address)

    def _repaired(self, words: str) -> bool:
        """Repair the mirror if ``words`` of git say how; return whether to fetch once more."""
        if any(each in words for each in _FULL):
            return False  # a sound mirror must not go because nothing can be written
        if ".lock'" in words or "cannot lock ref" in words:
            return _remove_stale(self.mirror)
        signs = (*_BROKEN, f"{self.mirror}/objects/")
        if "remote:" not in words and any(sign in words for sign in signs):
            shutil.rmtree(self.mirror, ignore_errors=True)
            return True
        return False

    def _ask(self, *arguments: str, most: int, address: str = "") -> bytes:
        return git(*arguments, timeout=self._timeout, most=most, address=address)

    def _run(
        self,
        *arguments: str,
        timeout: float | None = None,
        most: int = _PATHS,
        address: str = "",
        feed: bytes = b"",
        good: tuple[int, ...] = (0,),
    ) -> bytes:
        return git(
            *arguments,
            repository=self.mirror,
            timeout=timeout or self._timeout,
            most=most,
            address=address,
            feed=feed,
            good=good,
        )

    # -- its history --

    def _is_ancestor(self, before: str, revision: str) -> bool:
        asked = ("merge-base", "--is-ancestor", _checked(before), _checked(revision))
        with contextlib.suppress(SourceError):  # the older one is gone: history was rewritten
            self._run(*asked)
            return True
        return False

    def _commits(self, what: str, most: int) -> list[Commit]:
        """Return the newest commits, oldest first, along the branch: a merge is one commit.

        A name or a subject can be of any size: nobody can keep others from being built by one.
        """
        try:
            found = self._log(what, most, "%<(2000,trunc)%an%n%<(2000,trunc)%s")
        except SourceError:
            found = self._log(what, most, "%n")
        rows = [row.split("\n", 2) for row in found.split("\0") if row]
        return [
            Commit(revision, _line(author), _line(subject)) for revision, author, subject in rows
        ]

    def _log(self, what: str, most: int, words: str) -> str:
        options = ("--first-parent", "--reverse", "--no-notes", f"--max-count={most}")
        asked = ("log", "-z", *options, f"--format=%H%n{words}", what, "--")
        return self._run(*asked, most=_PATHS).decode("utf-8", "surrogateescape")

    def _with_paths(self, before: str, commits: Sequence[Commit]) -> list[Commit]:
        """Add the paths that each commit changed; none at all if git prints too much of them."""
        parents = [before, *(commit.revision for commit in commits)]
        pairs = zip(commits, parents, strict=False)
        feed = "".join(f"{commit.revision} {parent}\n" for commit, parent in pairs)
        asked = ("diff-tree", "--stdin", "-r", "-z", "--raw", "--no-renames", "--root")
        try:
            found = self._run(*asked, feed=feed.encode())
        except SourceError:
            return list(commits)
        paths = _changed(found)
        return [
            Commit(each.revision, each.author, each.subject, tuple(paths.get(each.revision, ())))
            for each in commits
        ]

    # -- its files --

    def _entries(self, revision: str) -> list[TreeEntry]:
        asked = ("ls-tree", "-r", "-z", "-l", "--full-tree", _checked(revision))
        found = self._run(*asked, most=_FILES, timeout=self._patience)
        rows = [parse_entry(row) for row in found.split(b"\0") if row]
        size = sum(row.size for row in rows)
        if len(rows) > _ENTRIES or size > _BYTES:
            raise SourceError(f"its tree is too large: {len(rows)} files, {size} bytes")
        return rows


def _checked(revision: str) -> str:
    """Return a revision that git may be given, or raise SourceError."""
    if not is_revision(revision):
        raise SourceError(f"{printable(revision)!r} is no revision of a repository")
    return revision


def _refs(rows: Iterable[Sequence[bytes]]) -> dict[str, str]:
    """Return revision by branch, with branch names that can be shown."""
    heads = [(row[0].decode("ascii", "replace"), row[1]) for row in rows if len(row) == 2]
    prefix = b"refs/heads/"
    return {
        printable(name[len(prefix) :].decode("utf-8", "surrogateescape")): revision
        for revision, name in heads
        if name.startswith(prefix) and is_revision(revision)
    }


def _line(text: str) -> str:
    """Return text of a stranger as one bounded line that can be shown."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= MAX_LINE_CHARS else f"{text[:MAX_LINE_CHARS]} ..."


def _changed(found: bytes) -> dict[str, list[str]]:
    """Return paths by commit, from the raw output of diff-tree: ``HASH :modes path ...``."""
    paths: dict[str, list[str]] = {}
    current: list[str] = []
    each = iter(found.split(b"\0"))
    for token in each:
        if token.startswith(b":"):
            current.append(os.fsdecode(next(each)))
        elif token:
            current = paths.setdefault(token.split()[0].decode(), [])
    return paths


def _remove(mirror: Path, *patterns: str) -> None:
    """Remove files that a killed git has left."""
    for path in [each for pattern in patterns for each in mirror.glob(pattern)]:
        path.unlink(missing_ok=True)


def remove_leftovers(mirror: Path) -> None:
    """Remove lock files and unfinished packs; call it only while no git works on ``mirror``."""
    _remove(mirror, *_LOCKS, _HALF)


def _remove_stale(mirror: Path) -> bool:
    """Remove lock files older than any that git still holds; return whether there were any."""
    before = time.time() - _STALE
    found = [path for pattern in _LOCKS for path in mirror.glob(pattern)]
    stale = [each for each in found if each.stat().st_mtime < before]
    for each in stale:
        each.unlink(missing_ok=True)
    return bool(stale)


@contextlib.contextmanager
def _contents(mirror: Path, entries: Sequence[TreeEntry], patience: float) -> Iterator[ReadEntry]:
    """Start one git process that prints the contents of all entries, in their order."""
    wanted = [entry.object + b"\n" for entry in entries if not entry.is_submodule]
    with started(("cat-file", "--batch", "--buffer"), mirror, feed=b"".join(wanted)) as process:
        out = process.stdout
        assert out
        watchdog = threading.Timer(patience, process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield lambda entry: _pieces(out, entry, lambda: last_words(process))
        finally:
            watchdog.cancel()


def _pieces(out: IO[bytes], entry: TreeEntry, why: Callable[[], str]) -> Iterator[bytes]:
    head = out.readline(200)
    if head != b"%b blob %d\n" % (entry.object, entry.size):
        raise SourceError(f"{display_path(entry.path)}: {display_path(head).strip() or why()}")
    left = entry.size
    while left:
        piece = out.read(min(left, CHUNK_SIZE))
        if not piece:
            raise SourceError(f"{display_path(entry.path)}: {why()}")
        left -= len(piece)
        yield piece
    out.read(1)
