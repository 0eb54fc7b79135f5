"""The tests of a tree: which files are tests, and what is to be known of each.

Owns the reading of files and folders during collection, for whoever collects: pytest
asks for one file after the other, a job for a whole tree.  The rules for a file are
``discovery``'s; those for folders are pytest's own, with its defaults.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import Config, find_root, load_config
from ..errors import NosejobsError, UsageError
from ..remote import formats
from ..remote.protocol.job import JobTest
from ..reporting.report_text import unmet_message
from ..text import escape_unprintable
from ..validators import format_suggestion
from . import discovery
from .discovery import DEFAULT_PATTERNS, CandidateFile, FileKind
from .metadata import Metadata, make_test, resolve_defaults, resolve_metadata

#: Seconds until a test is stopped of which nobody says anything else.
DEFAULT_TIMEOUT = 600.0

#: Names of folders that pytest does not enter (its ini value ``norecursedirs``).
_NOT_ENTERED = (
    "*.egg", ".*", "_darcs", "build", "CVS", "dist", "node_modules", "venv", "{arch}",
    "__pycache__",
)  # fmt: skip
_IGNORED = re.compile("|".join(fnmatch.translate(each) for each in _NOT_ENTERED))
#: What tells that a folder is a virtual environment.
_VENV = ("pyvenv.cfg", "conda-meta/history")
#: Python files that pytest takes (its ini value ``python_files``).
_PYTHON_TESTS = ("test_*.py", "*_test.py")

_REPEAT = re.compile(r"repeat-[0-9]+-of-[0-9]+")
_GLOB = re.compile(r"[*?[]")
#: Names that are searched for one that was meant, and those that are told if none was.
_SEARCHED = 2000
_NAMED = 5


# -- one file ---------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A file that is a test."""

    #: Its path relative to the root, as people, caches and reports know it.
    nodeid: str
    argv: tuple[str, ...]
    metadata: Metadata
    #: How often it runs.
    runs: int = 1

    def run_nodeid(self, number: int) -> str:
        """That of one run, from 1; the program's own if there is only one."""
        return self.nodeid if self.runs == 1 else f"{self.nodeid}::repeat-{number}-of-{self.runs}"

    def run_properties(self, number: int) -> tuple[tuple[str, str], ...]:
        """JUnit's properties of one run, beside those of every test."""
        return () if self.runs == 1 else (("repeat", f"{number} of {self.runs}"),)


@dataclass(frozen=True)
class InvalidTest:
    """A file that looks like a test and cannot be one."""

    #: Names the file.
    message: str


@dataclass(frozen=True)
class CollectionRules:
    """What makes a file a test, and what is said of it by others than itself."""

    tree: Config
    patterns: tuple[str, ...] = DEFAULT_PATTERNS
    #: Of all tests; what nosejobs.toml says of all is in it already.
    defaults: Metadata = Metadata()
    #: How often each runs; None: as its metadata says.
    repeat: int | None = None

    def classify(self, path: str, name: str, named: bool) -> Program | InvalidTest | None:
        """What ``path`` is, ``name`` relative to the root; ``named``: by the user."""
        # Texts, not Paths: to make those for each of thousands would cost more than the rest.
        if not named and not discovery.can_be_test(os.path.basename(path), self.patterns):
            return None
        file = None if os.path.splitext(path)[1] == ".py" else read_file(path)
        found = discovery.classify(file, named) if file else discovery.OTHER
        if found.kind is FileKind.INVALID:
            return InvalidTest(f"{escape_unprintable(name)}: {found.reason}")
        if found.kind is FileKind.OTHER or file is None:
            return None
        try:
            said = resolve_metadata(self.defaults, self.tree, name, file.head)
        except NosejobsError as error:
            return InvalidTest(str(error))
        return Program(escape_unprintable(name), found.argv, said, self.repeat or said.repeat or 1)


def read_file(path: str) -> CandidateFile | None:
    """A regular file's name, exec bit and first bytes; None if it is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except PermissionError:
        return _unreadable(Path(path))
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        head = os.read(descriptor, discovery.HEAD_BYTES)
    finally:
        os.close(descriptor)
    return CandidateFile(os.path.basename(path), bool(found.st_mode & 0o111), head)


def _unreadable(path: Path) -> CandidateFile | None:
    """A program may be executable without being readable."""
    found = path.stat()
    return CandidateFile(path.name, bool(found.st_mode & 0o111), b"") if path.is_file() else None


# -- a tree -----------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The tests of a tree."""

    #: In the order in which pytest would collect them; each has its place for its number.
    tests: tuple[JobTest, ...]
    #: What looks like a test and cannot be one, in words.
    invalid_tests: tuple[str, ...] = ()
    #: Python files that pytest would take; they stay its own.
    python_tests: tuple[str, ...] = ()


def make_plan(
    root: Path,
    names: Sequence[str] = (),
    *,
    labels: frozenset[str] = frozenset(),
    host: str = "",
    timeout: float | None = None,
    tags: Sequence[str] = (),
    patterns: Sequence[str] = DEFAULT_PATTERNS,
    repeat: int | None = None,
    defaults: Metadata | None = None,
    formats_by_suffix: Mapping[str, str] | None = None,
    tree: Config | None = None,
) -> Plan:
    """The tests below ``root``, or those that ``names`` are; raises UsageError.

    ``names``: files, folders, patterns, or ids of tests, relative to the root.
    ``labels``: those of the host; ``tags``: only tests that have one of them.
    ``timeout``, ``repeat``, ``defaults``: as pytest's command line and ini have them;
    ``spoken``: by suffix, the formats that programs are known to speak.  ``tree``: what
    nosejobs.toml says, if not the one in the root or the nearest above it.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder, so there are no tests in it")
    tree = load_config(find_root(root) or root) if tree is None else tree
    base = resolve_defaults(defaults or Metadata(), tree)
    # What the tree says of all tests is weaker than the word of who asks.
    limit = timeout or base.timeout or DEFAULT_TIMEOUT
    rules = CollectionRules(tree, tuple(patterns), replace(base, timeout=None), repeat)
    found = _Walk(root, rules).find(names)
    chosen = _with_tags(found.runs, tags)
    formats_of = _spoken() if formats_by_suffix is None else formats_by_suffix
    tests = tuple(
        _job_test(number, run, limit, formats_of, labels, host) for number, run in enumerate(chosen)
    )
    return Plan(tests, tuple(found.broken), tuple(found.left_out))


def _spoken() -> dict[str, str]:
    """By suffix, the formats that come with us."""
    found: dict[str, str] = {}
    for module in formats.load_builtin_formats():
        for suffix in formats.get_suffixes(module):
            found.setdefault(suffix, module.NAME)
    return found


@dataclass(frozen=True)
class _Run:
    """One run of a program."""

    #: Its path relative to the root, as the file system has it.
    path: str
    program: Program
    number: int = 1

    @property
    def nodeid(self) -> str:
        return self.program.run_nodeid(self.number)


def _job_test(
    number: int,
    run: _Run,
    timeout: float,
    spoken: Mapping[str, str],
    labels: frozenset[str],
    host: str,
) -> JobTest:
    said = run.program.metadata
    suffix = Path(run.path).suffix
    test = make_test(
        number, run.path, run.program.argv, said, said.timeout or timeout, spoken.get(suffix, "")
    )
    unmet, missing = "", sorted(set(said.requires) - labels)
    if missing:
        unmet = unmet_message(sorted(said.requires), missing, [host] if host else [])
    return JobTest(run.nodeid, test, said.retries, unmet, run.program.run_properties(run.number))


def _with_tags(runs: Sequence[_Run], tags: Sequence[str]) -> Sequence[_Run]:
    if not tags:
        return runs
    known = {tag for run in runs for tag in run.program.metadata.tags}
    for tag in tags:
        if tag not in known:
            others = format_suggestion(tag, known) if known else "; there are no tags"
            raise UsageError(f"no test has the tag {tag!r}{others}")
    return [run for run in runs if not set(tags).isdisjoint(run.program.metadata.tags)]


# -- walking ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Python:
    """A file that pytest takes."""


@dataclass(frozen=True)
class _Entry:
    """A file of the tree that is of interest."""

    #: Relative to the root, as the file system has it.
    path: str
    found: Program | InvalidTest | _Python

    @property
    def runs(self) -> list[_Run]:
        if not isinstance(self.found, Program):
            return []
        return [_Run(self.path, self.found, number + 1) for number in range(self.found.runs)]


class _Found:
    """What has been found so far; each thing once, in the order of its first mention."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, int], _Run] = {}
        self._broken: dict[str, None] = {}
        self._left_out: dict[str, None] = {}

    def add(self, entry: _Entry, only: str = "") -> None:
        """``only``: the id of one run."""
        if isinstance(entry.found, InvalidTest):
            self._broken[entry.found.message] = None
        elif isinstance(entry.found, _Python):
            self._left_out[entry.path] = None
        for run in entry.runs:
            if only in ("", run.nodeid):
                self._runs.setdefault((run.path, run.number), run)

    @property
    def runs(self) -> list[_Run]:
        return list(self._runs.values())

    @property
    def broken(self) -> list[str]:
        return list(self._broken)

    @property
    def left_out(self) -> list[str]:
        return [escape_unprintable(path) for path in self._left_out]


class _Walk:
    """Finds what is meant by names in one tree."""

    def __init__(self, root: Path, rules: CollectionRules) -> None:
        self._root = root
        self._rules = rules
        self._found = _Found()

    def find(self, names: Sequence[str]) -> _Found:
        """What ``names`` mean; all of the tree without any.  Raises UsageError."""
        for name in names:
            self._take(name)
        if not names:
            for entry in self._below(""):
                self._found.add(entry)
        return self._found

    @functools.cached_property
    def _all(self) -> list[_Entry]:
        """For patterns, ids and suggestions; most runs need none of them."""
        return list(self._below(""))

    def _take(self, name: str) -> None:
        path = self._inside(name)
        full = self._root / path
        if _is(os.path.isdir, full):
            self._take_all(name, list(self._below(path)))
            return
        for head, rest in _heads(path):
            if _is(os.path.lexists, self._root / head):
                self._take_file(name, head, rest)
                return
        self._take_all(name, self._matching(name, path))

    def _inside(self, name: str) -> str:
        """Relative to the root; ``""`` is the root itself."""
        full = os.path.normpath(os.path.join(self._root, name))
        path = os.path.relpath(full, self._root)
        if path == os.pardir or path.startswith(os.pardir + os.sep) or "\0" in path:
            raise UsageError(
                f"{escape_unprintable(name)} is outside of the tree of tests ({self._root}); "
                "name what is in it, or another folder for the tests"
            )
        return "" if path == os.curdir else path

    def _take_file(self, name: str, path: str, rest: str) -> None:
        if path.endswith(".py"):
            raise UsageError(f"{escape_unprintable(name)}: Python tests stay pytest's")
        found = self._rules.classify(str(self._root / path), path, named=True)
        if found is None:
            raise UsageError(f"{escape_unprintable(name)}: neither a regular file nor a folder")
        entry = _Entry(path, found)
        only = ""
        if isinstance(found, Program) and _REPEAT.fullmatch(rest):
            only = f"{found.nodeid}::{rest}"
            ids = [run.nodeid for run in entry.runs]
            if only not in ids:
                raise UsageError(f"{escape_unprintable(name)}: no such run{format_suggestion(only, ids)}")
        self._found.add(entry, only)

    def _take_all(self, name: str, entries: Sequence[_Entry]) -> None:
        for entry in entries:
            self._found.add(entry)
        if all(isinstance(entry.found, _Python) for entry in entries):
            why = "only Python tests, which stay pytest's" if entries else self._nothing(name)
            raise UsageError(f"{escape_unprintable(name)}: {why}")

    def _nothing(self, name: str) -> str:
        if _is(os.path.isdir, self._root / name):
            return f"no test is in this folder (names of tests: {', '.join(self._rules.patterns)})"
        paths = {escape_unprintable(entry.path) for entry in self._all}
        folders = {folder for path in paths for folder in _folders(path)}
        words = "no test matches" if _GLOB.search(name) else "no such file or folder"
        return words + _meant(name, sorted(paths | folders))

    def _matching(self, name: str, path: str) -> list[_Entry]:
        """Tests whose path or name fits a pattern, or that have this id."""
        fits = [re.compile(fnmatch.translate(each)).match for each in (path, _anywhere(path))]
        found = []
        for entry in self._all:
            names = (entry.path, os.path.basename(entry.path))
            is_meant = isinstance(entry.found, Program) and entry.found.nodeid == name
            if is_meant or any(fit(each) for fit in fits for each in names):
                found.append(entry)
        return found

    def _below(self, folder: str) -> Iterator[_Entry]:
        """In pytest's order: by name, a folder's tests in its place."""
        above = [_identity(self._root / folder)]
        levels = [self._list(folder)]
        while levels:
            item = next(levels[-1], None)
            if item is None:
                levels.pop()
                above.pop()
            elif isinstance(item, _Entry):
                yield item
            else:
                identity = _identity(self._root / item)
                if identity not in above:  # a link to where it is itself
                    above.append(identity)
                    levels.append(self._list(item))

    def _list(self, folder: str) -> Iterator[_Entry | str]:
        """What is of interest in a folder; folders in it as texts."""
        try:
            with os.scandir(self._root / folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            why = f"{escape_unprintable(folder) or '.'}: cannot be read: {error.strerror}"
            yield _Entry(folder, InvalidTest(why))
            return
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if _is_folder(entry):
                if not _is_ignored(entry):
                    yield path
            else:
                found_here = self._look(entry.name, path)
                if found_here is not None:
                    yield _Entry(path, found_here)

    def _look(self, name: str, path: str) -> Program | InvalidTest | _Python | None:
        if name.endswith(".py"):
            taken = any(fnmatch.fnmatchcase(name, each) for each in _PYTHON_TESTS)
            return _Python() if taken else None
        if not discovery.can_be_test(name, self._rules.patterns):
            return None  # most files, and the path of each would cost more than this
        return self._rules.classify(str(self._root / path), path, named=False)


def _meant(name: str, known: Sequence[str]) -> str:
    """The test that was meant; a list of all would be no help."""
    if not known:
        return "; there is no test in this tree"
    close = difflib.get_close_matches(name, known[:_SEARCHED], 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f", and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return f"; there are {', '.join(known[:_NAMED])}{more}"


def _heads(path: str) -> Iterator[tuple[str, str]]:
    """A path, and what it may be the id of a case or a run of: the longest first."""
    yield path, ""
    at = path.rfind("::")
    while at > 0:
        yield path[:at], path[at + 2 :]
        at = path.rfind("::", 0, at)


def _folders(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _anywhere(pattern: str) -> str:
    """``**/x`` is also the x of no folder."""
    return pattern.replace("**/", "")


def _is(test: Callable[[Path], bool], path: Path) -> bool:
    try:
        return test(path)
    except (OSError, ValueError):
        return False


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_ignored(entry: os.DirEntry[str]) -> bool:
    if _IGNORED.match(entry.name):
        return True
    return any(_is(os.path.isfile, Path(entry.path, each)) for each in _VENV)
