"""Watched trees: where their branches stand, what lies between two revisions, and the files.

Owns the bare mirrors of repositories, and how a revision becomes a folder.  Must not know
builds or the database.  Whatever is in a repository was written by a stranger: files are
written byte by byte as they were committed, by nobody but this module, so that no hook,
filter, submodule or attribute of a tree does anything.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from shell_runner import shipping
from shell_runner.discovery import printable
from shell_runner.errors import UsageError
from shell_runner.guard import clean_line
from shell_runner.remote.manifest import FILE, LINK, BadEntry, Entry, check

from . import settings
from .git import SourceError, check_address, git, is_revision, last_words, shown, started
from .policy.changes import Commit
from .settings import PART

#: Commits between two revisions that are listed, the newest ones.
_COMMITS = 200
#: Bounds of a tree: entries, bytes of all files, bytes of one piece while writing.
_ENTRIES = 500_000
_BYTES = 16 << 30
_PIECE = 1 << 20
#: Folders in each other: as many as in an archive.
_DEPTH = 256
#: Bytes of what a link points to (PATH_MAX); links that Linux follows to one file; names that are
#: looked at to find out where all links of a tree lead.
_LINK, _HOPS, _STEPS = 4095, 40, 5_000_000
#: Bytes of the lists of branches, of paths that changed, of files.
_BRANCHES = 16 << 20
_PATHS = 16 << 20
_FILES = 256 << 20
#: Characters of an author and of a subject.
_LINE = 300
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


class Past(NamedTuple):
    """What lies between two revisions."""

    #: Oldest first; the last one is where the branch stands.
    commits: tuple[Commit, ...]
    #: The newer revision does not descend from the older one.
    forced: bool = False


class Source(Protocol):
    """A watched tree.  Each method may raise SourceError: trouble, not an end."""

    def heads(self) -> dict[str, str]:
        """Revision by branch, now; all these revisions can be had afterwards."""

    def between(self, before: str, revision: str) -> Past:
        """The commits from one revision to another; empty: it is new, the last one counts."""

    def checkout(self, revision: str, folder: Path) -> None:
        """Make a folder with the files of a revision, all or none; one that is there stays."""


def recover(mirrors: Path) -> None:
    """Remove what was being written when its process died; nobody writes now.

    A git that outlives its dispatcher for a moment fails without its lock or its half pack.
    """
    for path in mirrors.glob(f"{PART}*"):
        shutil.rmtree(path, ignore_errors=True)
    for mirror in mirrors.glob("*.git"):
        _remove(mirror, *_LOCKS, _HALF)


def opened(source: settings.Source, mirrors: Path) -> Source:
    """The source of a part of the dispatcher's file; mirrors are kept below a folder."""
    if source.git:
        return GitSource(source.git, mirrors / f"{source.name}.git")
    return DirectorySource(Path(source.directory))


# -- git ----------------------------------------------------------------------------


class GitSource:
    """A repository, and our mirror of it."""

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
        """Ask the repository; fetch if it has something else than the mirror."""
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

    def between(self, before: str, revision: str) -> Past:
        """By the mirror: it has all revisions that ``heads`` has told of."""
        forced = bool(before) and not self._is_ancestor(before, revision)
        if forced or not before:
            return Past(tuple(self._commits(revision, 1)), forced)
        commits = self._commits(f"{_checked(before)}..{_checked(revision)}", _COMMITS)
        return Past(tuple(self._with_paths(before, commits)))

    def checkout(self, revision: str, folder: Path) -> None:
        """Files as they were committed: no conversion of line ends, no filter, no submodule."""
        if folder.is_dir():
            return
        what = f"revision {_checked(revision)[:12]}"
        with _made(folder, what) as part:
            entries = self._entries(revision)
            with _contents(self.mirror, entries, self._patience) as read:
                _write_entries(os.fsencode(part), entries, read, what)

    def tidy(self) -> None:
        """Pack the mirror, and forget what no branch has had for long; once a day is enough."""
        with self._turn:
            if self._mirrored() is not None:
                self._run("gc", "--quiet", "--prune=90.days.ago", timeout=self._patience)

    # -- the mirror --

    def _mirrored(self) -> dict[str, str] | None:
        """Revision by branch in the mirror; None if there is none, or it is broken."""
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
        """All branches, and nothing else that a server may offer."""
        options = ("--quiet", "--prune", "--force", "--no-tags", "--no-recurse-submodules")
        more = ("--no-auto-maintenance", "--no-write-fetch-head", "--no-show-forced-updates")
        every = "+refs/heads/*:refs/heads/*"
        command = ("fetch", *options, *more, "--", self.address, every)
        self._run(*command, timeout=self._patience, address=self.address)

    def _repaired(self, words: str) -> bool:
        """Whether it makes sense to try again now."""
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
        """The newest ones, oldest first, along the branch: a merge is one commit.

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
        """What each has changed; unknown for all if that is too much to read."""
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

    def _entries(self, revision: str) -> list[_Entry]:
        asked = ("ls-tree", "-r", "-z", "-l", "--full-tree", _checked(revision))
        found = self._run(*asked, most=_FILES, timeout=self._patience)
        rows = [_entry(row) for row in found.split(b"\0") if row]
        size = sum(row.size for row in rows)
        if len(rows) > _ENTRIES or size > _BYTES:
            raise SourceError(f"its tree is too large: {len(rows)} files, {size} bytes")
        return rows


class _Entry(NamedTuple):
    """A file, link or submodule of a revision."""

    mode: bytes
    object: bytes
    size: int
    path: bytes

    @property
    def is_link(self) -> bool:
        return self.mode == b"120000"

    @property
    def is_submodule(self) -> bool:
        return self.mode == b"160000"


def _entry(row: bytes) -> _Entry:
    """Of a line of ls-tree; none leads out of the tree, or makes a repository of it."""
    head, path = row.split(b"\t", 1)
    mode, _, name, size = head.split()
    parts = path.lower().split(b"/")
    if b".git" in parts:
        raise SourceError(f"{_path(path)}: nothing of a tree may be called .git")
    if len(parts) > _DEPTH:
        raise SourceError(f"{_path(path)[:_LINE]}: more than {_DEPTH} folders deep")
    _check(Entry(os.fsdecode(path), FILE, 0, "0" * 64))
    return _Entry(mode, name, int(size) if size.isdigit() else 0, path)


def _check(entry: Entry) -> None:
    try:
        check(entry)
    except BadEntry as error:
        raise SourceError(f"its tree is refused: {clean_line(str(error), _LINE)}") from None


def _checked(revision: str) -> str:
    """A revision as git may be given it."""
    if not is_revision(revision):
        raise SourceError(f"{printable(revision)!r} is no revision of a repository")
    return revision


def _refs(rows: Iterable[Sequence[bytes]]) -> dict[str, str]:
    """Revision by branch; no two branches have the same name for people."""
    heads = [(row[0].decode("ascii", "replace"), row[1]) for row in rows if len(row) == 2]
    prefix = b"refs/heads/"
    return {
        printable(name[len(prefix) :].decode("utf-8", "surrogateescape")): revision
        for revision, name in heads
        if name.startswith(prefix) and is_revision(revision)
    }


def _line(text: str) -> str:
    """For people, who did not write it."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= _LINE else f"{text[:_LINE]} ..."


def _path(path: bytes) -> str:
    return printable(os.fsdecode(path))


def _changed(found: bytes) -> dict[str, list[str]]:
    """Paths by commit, of the raw output of diff-tree: ``HASH``, then ``:modes``, ``path``, ..."""
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
    """Files of a git that is not there any more."""
    for path in [each for pattern in patterns for each in mirror.glob(pattern)]:
        path.unlink(missing_ok=True)


def _remove_stale(mirror: Path) -> bool:
    """Lock files that nobody holds: git holds one for moments only."""
    before = time.time() - _STALE
    found = [path for pattern in _LOCKS for path in mirror.glob(pattern)]
    stale = [each for each in found if each.stat().st_mtime < before]
    for each in stale:
        each.unlink(missing_ok=True)
    return bool(stale)


# -- writing a tree -----------------------------------------------------------------

#: Gives the contents of an entry, in pieces.
_Read = Callable[[_Entry], Iterator[bytes]]


@contextlib.contextmanager
def _made(folder: Path, what: str) -> Iterator[Path]:
    """A folder beside the wanted one, which becomes it at the end: it is whole, or not there."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=PART, dir=folder.parent))
        try:
            yield part
            part.chmod(0o755)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        name = os.fsdecode(error.filename or b"").partition(f"/{PART}")[2].partition("/")[2]
        where = f" ({clean_line(name, _LINE)})" if name else ""
        raise SourceError(f"{what} cannot be written: {error.strerror}{where}") from error


@contextlib.contextmanager
def _contents(mirror: Path, entries: Sequence[_Entry], patience: float) -> Iterator[_Read]:
    """One git process that gives all contents, in the order of the entries."""
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


def _pieces(out: IO[bytes], entry: _Entry, why: Callable[[], str]) -> Iterator[bytes]:
    head = out.readline(200)
    if head != b"%b blob %d\n" % (entry.object, entry.size):
        raise SourceError(f"{_path(entry.path)}: {_path(head).strip() or why()}")
    left = entry.size
    while left:
        piece = out.read(min(left, _PIECE))
        if not piece:
            raise SourceError(f"{_path(entry.path)}: {why()}")
        left -= len(piece)
        yield piece
    out.read(1)


def _write_entries(root: bytes, entries: Sequence[_Entry], read: _Read, what: str) -> None:
    """Files first, links last: nothing is ever written through a link."""
    links: dict[bytes, bytes] = {}
    for entry in entries:
        if entry.is_submodule:
            os.makedirs(os.path.join(root, entry.path))
        elif entry.is_link:
            if entry.size > _LINK:
                raise SourceError(f"{what}: the link {_path(entry.path)} is too long")
            links[entry.path] = b"".join(read(entry))
        else:
            _write(root, entry.path, 0o755 if entry.mode == b"100755" else 0o644, read(entry))
    for path, target in links.items():
        _check(Entry(os.fsdecode(path), LINK, 0, os.fsdecode(target)))
        _link(root, path, target)
    _check_links(links, what)


def _write(root: bytes, path: bytes, mode: int, pieces: Iterable[bytes]) -> None:
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(full, flags, 0o600), "wb") as file:
        for piece in pieces:
            file.write(piece)
        os.fchmod(file.fileno(), mode & 0o777)


def _link(root: bytes, path: bytes, target: bytes) -> None:
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    os.symlink(target, full)


def _check_links(links: Mapping[bytes, bytes], what: str) -> None:
    """Each seems to stay inside; through another one it could still lead out."""
    steps = 0
    for path in links:
        steps += _followed(path, links, what)
        if steps > _STEPS:
            raise SourceError(f"{what}: its links lead through too many others")


def _followed(path: bytes, links: Mapping[bytes, bytes], what: str) -> int:
    """Steps to where a link leads; one that no kernel would follow to its end leads nowhere."""
    here: list[bytes] = []
    left, steps, hops = path.split(b"/")[::-1], 0, 0
    while left and hops <= _HOPS:
        part, steps = left.pop(), steps + 1
        if part == b".." and not here:
            raise SourceError(f"{what}: the link {_path(path)} leads out of the tree")
        if part == b"..":
            here.pop()
        elif part not in (b"", b"."):
            here.append(part)
            target = links.get(b"/".join(here))
            if target is not None:
                hops += 1
                here.pop()
                left += target.split(b"/")[::-1]
    return steps


# -- a directory --------------------------------------------------------------------


class DirectorySource:
    """A plain directory; its revision is the digest of what would be shipped of it."""

    #: It has one branch, which has no name.
    BRANCH = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: The last trees, for what changed between them: path -> (kind, mode, digest).
        self._seen: dict[str, dict[str, Entry]] = {}

    def heads(self) -> dict[str, str]:
        """Where it stands now."""
        revision, _ = self._look()
        return {self.BRANCH: revision}

    def between(self, before: str, revision: str) -> Past:
        """One change; what changed is known of trees that this process has seen."""
        old, now = self._seen.get(before), self._seen.get(revision)
        if old is None or now is None:
            return Past((Commit(revision),))
        changed = (path for path in old.keys() | now.keys() if old.get(path) != now.get(path))
        return Past((Commit(revision, paths=tuple(sorted(changed))),))

    def checkout(self, revision: str, folder: Path) -> None:
        """A copy; only of what it is now, so SourceError if that is another revision."""
        if folder.is_dir():
            return
        now, entries = self._look()
        if now != revision:
            raise SourceError(f"{self.path} has changed meanwhile: that revision is gone")
        with _made(folder, f"a copy of {self.path}") as part:
            root = os.fsencode(part)
            for entry in entries:
                if entry.kind == FILE:
                    _write(root, os.fsencode(entry.path), entry.mode, self._read(entry))
            found = (each for each in entries if each.kind == LINK)
            links = {os.fsencode(each.path): os.fsencode(each.digest) for each in found}
            for path, target in links.items():
                _link(root, path, target)
            _check_links(links, str(self.path))

    def _read(self, entry: Entry) -> Iterator[bytes]:
        found = hashlib.sha256()
        with open(self.path / entry.path, "rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                found.update(piece)
                yield piece
        if found.hexdigest() != entry.digest:
            raise SourceError(f"{printable(entry.path)} has changed while it was copied")

    def _look(self) -> tuple[str, tuple[Entry, ...]]:
        try:
            with os.scandir(self.path):
                pass
            entries = shipping.scan(self.path, ()).entries
        except (OSError, BadEntry) as error:
            words = error.strerror if isinstance(error, OSError) else error
            raise SourceError(f"{self.path} cannot be read: {words}") from error
        except UsageError as error:
            raise SourceError(str(error)) from error
        if not entries:
            raise SourceError(f"{self.path}: there is nothing in it")
        revision = digest_of(entries)
        kept = {key: self._seen[key] for key in list(self._seen)[-3:]}
        self._seen = {**kept, revision: {entry.path: entry for entry in entries}}
        return revision, entries


def digest_of(entries: Iterable[Entry]) -> str:
    """The digest of a tree: paths, kinds, modes, contents, whatever the order."""
    found = hashlib.sha256()
    for entry in sorted(entries):
        fields = (entry.path, entry.kind, "%o" % entry.mode, entry.digest)
        found.update("\0".join(fields).encode("utf-8", "surrogateescape") + b"\0\n")
    return found.hexdigest()
