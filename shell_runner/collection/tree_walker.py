"""The search for tests in a tree, by names, patterns or node ids.

The rules for folders are pytest's own, with its defaults.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..text import escape_unprintable
from ..validators import format_suggestion
from . import file_names
from .programs import CollectionRules, InvalidTest, Program, UncollectedFile

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


@dataclass(frozen=True)
class Run:
    """One run of a program."""

    #: Path of the program relative to the root, as in the file system.
    path: str
    program: Program
    number: int = 1

    @property
    def nodeid(self) -> str:
        return self.program.run_nodeid(self.number)


@dataclass(frozen=True)
class _PythonFile:
    """A Python file that pytest collects."""


@dataclass(frozen=True)
class _Entry:
    """A file of the tree that is a test, looks like one, or belongs to pytest."""

    #: Path relative to the root, as in the file system.
    path: str
    content: Program | InvalidTest | UncollectedFile | _PythonFile

    @property
    def runs(self) -> list[Run]:
        if not isinstance(self.content, Program):
            return []
        return [Run(self.path, self.content, number + 1) for number in range(self.content.runs)]


class Selection:
    """The files selected so far, each once, in the order of their first mention."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, int], Run] = {}
        self._invalid_tests: dict[str, None] = {}
        self._python_tests: dict[str, None] = {}
        self._uncollected: dict[str, None] = {}

    def add(self, entry: _Entry, only: str = "") -> None:
        """Add a file; ``only``: the node id of the one run to add, or empty."""
        if isinstance(entry.content, InvalidTest):
            self._invalid_tests[entry.content.message] = None
        elif isinstance(entry.content, UncollectedFile):
            self._uncollected[entry.content.message] = None
        elif isinstance(entry.content, _PythonFile):
            self._python_tests[entry.path] = None
        for run in entry.runs:
            if only in ("", run.nodeid):
                self._runs.setdefault((run.path, run.number), run)

    @property
    def runs(self) -> list[Run]:
        return list(self._runs.values())

    @property
    def invalid_tests(self) -> list[str]:
        return list(self._invalid_tests)

    @property
    def uncollected(self) -> list[str]:
        return list(self._uncollected)

    @property
    def python_tests(self) -> list[str]:
        return [escape_unprintable(path) for path in self._python_tests]


class TreeWalker:
    """Finds the tests of one tree that names select."""

    def __init__(self, root: Path, rules: CollectionRules) -> None:
        self._root = root
        self._rules = rules
        self._selection = Selection()

    def find(self, names: Sequence[str]) -> Selection:
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
        if any(isinstance(entry.content, (Program, InvalidTest)) for entry in entries):
            return
        uncollected = [
            each.content for each in entries if isinstance(each.content, UncollectedFile)
        ]
        reason = "only Python tests, which run with pytest only"
        if uncollected:
            reason = f"no tests; {uncollected[0].message}"
        elif not entries:
            reason = self._no_match_reason(name)
        raise UsageError(f"{escape_unprintable(name)}: {reason}")

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

    def _classify(
        self, name: str, path: str
    ) -> Program | InvalidTest | UncollectedFile | _PythonFile | None:
        if name.endswith(".py"):
            is_collected = any(fnmatch.fnmatchcase(name, each) for each in _PYTHON_TESTS)
            return _PythonFile() if is_collected else None
        if not file_names.resembles_test(name, self._rules.patterns):
            return None  # most files, and the path of each would cost more than this
        full = str(self._root / path)
        result = self._rules.classify(full, path, is_explicit=False)
        if result is None:
            reason = self._rules.explain_uncollected(full)
            return UncollectedFile(f"{escape_unprintable(path)}: {reason}") if reason else None
        return result


def _suggest_test(name: str, known: Sequence[str]) -> str:
    """Return a hint with the most similar name, or with a few of those that exist."""
    if not known:
        return "; there are no tests in this tree"
    import difflib  # needed for errors only

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
