"""The tests of a tree: the files that are tests, and their metadata.

Reads files and folders during collection: pytest asks for one file after the other, a job for a
whole tree.  ``discovery`` holds the rules for a file; those for folders are pytest's own, with its
defaults.
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

#: Seconds until a test is stopped, unless it or the run sets another limit.
DEFAULT_TIMEOUT = 600.0

#: Names of folders that pytest does not enter (default of its ini option ``norecursedirs``).
_NORECURSEDIRS = (
    "*.egg", ".*", "_darcs", "build", "CVS", "dist", "node_modules", "venv", "{arch}",
    "__pycache__",
)  # fmt: skip
_IGNORED_FOLDER = re.compile("|".join(fnmatch.translate(each) for each in _NORECURSEDIRS))
#: Files that mark a folder as a virtual environment.
_VENV_FILES = ("pyvenv.cfg", "conda-meta/history")
#: Python files that pytest collects (default of its ini option ``python_files``).
_PYTHON_TESTS = ("test_*.py", "*_test.py")

_REPEAT = re.compile(r"repeat-[0-9]+-of-[0-9]+")
_GLOB = re.compile(r"[*?[]")
#: Names that are searched for a similar one, and names that an error lists if there is none.
_MAX_SEARCHED_NAMES = 2000
_MAX_LISTED_NAMES = 5


# -- one file ---------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A file that is a test."""

    #: Its path relative to the root, with unprintable characters escaped.
    nodeid: str
    #: Interpreter and options in front of its path.
    argv: tuple[str, ...]
    metadata: Metadata
    #: Number of times that it runs.
    runs: int = 1

    def run_nodeid(self, number: int) -> str:
        """Return the node id of a run; ``number``: from 1.  A single run has the program's own."""
        return self.nodeid if self.runs == 1 else f"{self.nodeid}::repeat-{number}-of-{self.runs}"

    def run_properties(self, number: int) -> tuple[tuple[str, str], ...]:
        """Return the additional JUnit properties of a run; ``number``: from 1."""
        return () if self.runs == 1 else (("repeat", f"{number} of {self.runs}"),)


@dataclass(frozen=True)
class InvalidTest:
    """A file that looks like a test and cannot be one."""

    #: Names the file and the reason.
    message: str


@dataclass(frozen=True)
class CollectionRules:
    """The rules by which files become programs."""

    tree: Config
    patterns: tuple[str, ...] = DEFAULT_PATTERNS
    #: Metadata of all tests, including ``[tests]`` of nosejobs.toml.
    defaults: Metadata = Metadata()
    #: Number of times that each test runs; None: as in its metadata.
    repeat: int | None = None

    def classify(self, path: str, name: str, is_explicit: bool) -> Program | InvalidTest | None:
        """Classify the file at ``path``; return None if it is not a test.

        ``name``: path relative to the root.  ``is_explicit``: the user named the file.
        """
        # Strings, not Paths: creating a Path for each of thousands would cost more than the rest.
        if not is_explicit and not discovery.can_be_test(os.path.basename(path), self.patterns):
            return None
        file = None if os.path.splitext(path)[1] == ".py" else read_file(path)
        result = discovery.classify(file, is_explicit) if file else discovery.OTHER
        if result.kind is FileKind.INVALID:
            return InvalidTest(f"{escape_unprintable(name)}: {result.reason}")
        if result.kind is FileKind.OTHER or file is None:
            return None
        try:
            metadata = resolve_metadata(self.defaults, self.tree, name, file.head)
        except NosejobsError as error:
            return InvalidTest(str(error))
        return Program(
            escape_unprintable(name), result.argv, metadata, self.repeat or metadata.repeat or 1
        )


def read_file(path: str) -> CandidateFile | None:
    """Return name, exec bit and first bytes of a regular file; None for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except PermissionError:
        return _stat_unreadable(Path(path))
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        head = os.read(descriptor, discovery.HEAD_BYTES)
    finally:
        os.close(descriptor)
    return CandidateFile(os.path.basename(path), bool(status.st_mode & 0o111), head)


def _stat_unreadable(path: Path) -> CandidateFile | None:
    """Return a regular file that cannot be read; it may still be executable."""
    status = path.stat()
    return CandidateFile(path.name, bool(status.st_mode & 0o111), b"") if path.is_file() else None


# -- a tree -----------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The tests of a tree."""

    #: In the order in which pytest would collect them; the index of each is its number.
    tests: tuple[JobTest, ...]
    #: Messages about files that look like tests and cannot be run.
    invalid_tests: tuple[str, ...] = ()
    #: Python files that pytest would collect; jobs do not run them.
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
    """Return the plan of the tests below ``root``, or of those that ``names`` select.

    ``names``: files, folders, patterns, or node ids, relative to the root.  ``labels``: labels of
    the host.  ``tags``: only tests that have one of them.  ``timeout`` (seconds), ``repeat``,
    ``defaults``: as on pytest's command line and in its ini file.  ``formats_by_suffix``: formats
    that programs with a suffix always write; None: the built-in ones.  ``tree``: configuration, if
    not that of the nosejobs.toml in the root or the nearest above it.

    Raises UsageError for a name that selects nothing, and for a tag that no test has.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    tree = load_config(find_root(root) or root) if tree is None else tree
    base = resolve_defaults(defaults or Metadata(), tree)
    # The limit of the run takes precedence over that of the tree for all tests.
    limit = timeout or base.timeout or DEFAULT_TIMEOUT
    rules = CollectionRules(tree, tuple(patterns), replace(base, timeout=None), repeat)
    selection = _TreeWalker(root, rules).find(names)
    chosen = _select_by_tags(selection.runs, tags)
    formats_of = _builtin_formats_by_suffix() if formats_by_suffix is None else formats_by_suffix
    tests = tuple(
        _make_job_test(number, run, limit, formats_of, labels, host)
        for number, run in enumerate(chosen)
    )
    return Plan(tests, tuple(selection.invalid_tests), tuple(selection.python_tests))


def _builtin_formats_by_suffix() -> dict[str, str]:
    """Return the names of the built-in formats by the suffix of programs."""
    by_suffix: dict[str, str] = {}
    for module in formats.load_builtin_formats():
        for suffix in formats.get_suffixes(module):
            by_suffix.setdefault(suffix, module.NAME)
    return by_suffix


@dataclass(frozen=True)
class _Run:
    """One run of a program."""

    #: Path of the program relative to the root, as in the file system.
    path: str
    program: Program
    number: int = 1

    @property
    def nodeid(self) -> str:
        return self.program.run_nodeid(self.number)


def _make_job_test(
    number: int,
    run: _Run,
    timeout: float,
    formats_by_suffix: Mapping[str, str],
    labels: frozenset[str],
    host: str,
) -> JobTest:
    metadata = run.program.metadata
    suffix = Path(run.path).suffix
    test = make_test(
        number,
        run.path,
        run.program.argv,
        metadata,
        metadata.timeout or timeout,
        formats_by_suffix.get(suffix, ""),
    )
    unmet, missing = "", sorted(set(metadata.requires) - labels)
    if missing:
        unmet = unmet_message(sorted(metadata.requires), missing, [host] if host else [])
    return JobTest(
        run.nodeid, test, metadata.retries, unmet, run.program.run_properties(run.number)
    )


def _select_by_tags(runs: Sequence[_Run], tags: Sequence[str]) -> Sequence[_Run]:
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
class _PythonFile:
    """A Python file that pytest collects."""


@dataclass(frozen=True)
class _Entry:
    """A file of the tree that is a test, looks like one, or belongs to pytest."""

    #: Path relative to the root, as in the file system.
    path: str
    content: Program | InvalidTest | _PythonFile

    @property
    def runs(self) -> list[_Run]:
        if not isinstance(self.content, Program):
            return []
        return [_Run(self.path, self.content, number + 1) for number in range(self.content.runs)]


class _Selection:
    """The files selected so far, each once, in the order of their first mention."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, int], _Run] = {}
        self._invalid_tests: dict[str, None] = {}
        self._python_tests: dict[str, None] = {}

    def add(self, entry: _Entry, only: str = "") -> None:
        """Add a file; ``only``: the node id of the one run to add, or empty."""
        if isinstance(entry.content, InvalidTest):
            self._invalid_tests[entry.content.message] = None
        elif isinstance(entry.content, _PythonFile):
            self._python_tests[entry.path] = None
        for run in entry.runs:
            if only in ("", run.nodeid):
                self._runs.setdefault((run.path, run.number), run)

    @property
    def runs(self) -> list[_Run]:
        return list(self._runs.values())

    @property
    def invalid_tests(self) -> list[str]:
        return list(self._invalid_tests)

    @property
    def python_tests(self) -> list[str]:
        return [escape_unprintable(path) for path in self._python_tests]


class _TreeWalker:
    """Finds the tests of one tree that names select."""

    def __init__(self, root: Path, rules: CollectionRules) -> None:
        self._root = root
        self._rules = rules
        self._selection = _Selection()

    def find(self, names: Sequence[str]) -> _Selection:
        """Return the files that ``names`` select; all files of the tree if there are none.

        Raises UsageError for a name that selects nothing.
        """
        for name in names:
            self._add_name(name)
        if not names:
            for entry in self._iterate_tests(""):
                self._selection.add(entry)
        return self._selection

    @functools.cached_property
    def _all_entries(self) -> list[_Entry]:
        """All files of the tree, for patterns, ids and suggestions; most runs need none of them."""
        return list(self._iterate_tests(""))

    def _add_name(self, name: str) -> None:
        path = self._relative_path(name)
        full = self._root / path
        if _check_path(os.path.isdir, full):
            self._add_entries(name, list(self._iterate_tests(path)))
            return
        for head, rest in _iterate_prefixes(path):
            if _check_path(os.path.lexists, self._root / head):
                self._add_file(name, head, rest)
                return
        self._add_entries(name, self._find_matching(name, path))

    def _relative_path(self, name: str) -> str:
        """Return the path relative to the root, ``""`` for the root; raises UsageError outside."""
        full = os.path.normpath(os.path.join(self._root, name))
        path = os.path.relpath(full, self._root)
        if path == os.pardir or path.startswith(os.pardir + os.sep) or "\0" in path:
            raise UsageError(
                f"{escape_unprintable(name)} is outside of the tree of tests ({self._root}); "
                "name a path in it, or use another folder for the tests"
            )
        return "" if path == os.curdir else path

    def _add_file(self, name: str, path: str, rest: str) -> None:
        if path.endswith(".py"):
            raise UsageError(f"{escape_unprintable(name)}: Python tests run with pytest only")
        program = self._rules.classify(str(self._root / path), path, is_explicit=True)
        if program is None:
            raise UsageError(f"{escape_unprintable(name)}: neither a regular file nor a folder")
        entry = _Entry(path, program)
        only = ""
        if isinstance(program, Program) and _REPEAT.fullmatch(rest):
            only = f"{program.nodeid}::{rest}"
            ids = [run.nodeid for run in entry.runs]
            if only not in ids:
                raise UsageError(
                    f"{escape_unprintable(name)}: no such run{format_suggestion(only, ids)}"
                )
        self._selection.add(entry, only)

    def _add_entries(self, name: str, entries: Sequence[_Entry]) -> None:
        for entry in entries:
            self._selection.add(entry)
        if all(isinstance(entry.content, _PythonFile) for entry in entries):
            why = (
                "only Python tests, which run with pytest only"
                if entries
                else self._no_match_reason(name)
            )
            raise UsageError(f"{escape_unprintable(name)}: {why}")

    def _no_match_reason(self, name: str) -> str:
        if _check_path(os.path.isdir, self._root / name):
            return f"no tests in this folder (patterns of names: {', '.join(self._rules.patterns)})"
        paths = {escape_unprintable(entry.path) for entry in self._all_entries}
        folders = {folder for path in paths for folder in _iterate_parents(path)}
        reason = "no test matches" if _GLOB.search(name) else "no such file or folder"
        return reason + _suggest_test(name, sorted(paths | folders))

    def _find_matching(self, name: str, path: str) -> list[_Entry]:
        """Return the tests whose path or name matches the pattern, or that have this node id."""
        fits = [
            re.compile(fnmatch.translate(each)).match for each in (path, _drop_double_star(path))
        ]
        entries = []
        for entry in self._all_entries:
            names = (entry.path, os.path.basename(entry.path))
            is_meant = isinstance(entry.content, Program) and entry.content.nodeid == name
            if is_meant or any(fit(each) for fit in fits for each in names):
                entries.append(entry)
        return entries

    def _iterate_tests(self, folder: str) -> Iterator[_Entry]:
        """Yield the entries below a folder in pytest's order: by name, folders among files."""
        above = [_identity(self._root / folder)]
        levels = [self._iterate_folder(folder)]
        while levels:
            item = next(levels[-1], None)
            if item is None:
                levels.pop()
                above.pop()
            elif isinstance(item, _Entry):
                yield item
            else:
                identity = _identity(self._root / item)
                if identity not in above:  # not a link to one of its parents
                    above.append(identity)
                    levels.append(self._iterate_folder(item))

    def _iterate_folder(self, folder: str) -> Iterator[_Entry | str]:
        """Yield the entries of a folder; its subfolders as strings."""
        try:
            with os.scandir(self._root / folder) as iterator:
                entries = sorted(iterator, key=lambda entry: entry.name)
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
                content = self._classify(entry.name, path)
                if content is not None:
                    yield _Entry(path, content)

    def _classify(self, name: str, path: str) -> Program | InvalidTest | _PythonFile | None:
        if name.endswith(".py"):
            is_collected = any(fnmatch.fnmatchcase(name, each) for each in _PYTHON_TESTS)
            return _PythonFile() if is_collected else None
        if not discovery.can_be_test(name, self._rules.patterns):
            return None  # most files, and the path of each would cost more than this
        return self._rules.classify(str(self._root / path), path, is_explicit=False)


def _suggest_test(name: str, known: Sequence[str]) -> str:
    """Return a hint with the most similar name, or with a few of those that exist."""
    if not known:
        return "; there are no tests in this tree"
    close = difflib.get_close_matches(name, known[:_MAX_SEARCHED_NAMES], 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f", and {len(known) - _MAX_LISTED_NAMES} more" if len(known) > _MAX_LISTED_NAMES else ""
    return f"; there are {', '.join(known[:_MAX_LISTED_NAMES])}{more}"


def _iterate_prefixes(path: str) -> Iterator[tuple[str, str]]:
    """Yield the splits of a path at ``::``, the longest prefix first: (path, id of case or run)."""
    yield path, ""
    at = path.rfind("::")
    while at > 0:
        yield path[:at], path[at + 2 :]
        at = path.rfind("::", 0, at)


def _iterate_parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _drop_double_star(pattern: str) -> str:
    """Return the pattern without ``**/``, which also matches no folder at all."""
    return pattern.replace("**/", "")


def _check_path(test: Callable[[Path], bool], path: Path) -> bool:
    try:
        return test(path)
    except (OSError, ValueError):
        return False


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_ignored(entry: os.DirEntry[str]) -> bool:
    if _IGNORED_FOLDER.match(entry.name):
        return True
    return any(_check_path(os.path.isfile, Path(entry.path, each)) for each in _VENV_FILES)
