"""Programs: the files that are tests, with their metadata.

Reads one file during collection; ``discovery`` holds the rules for its name and content.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ..config import Config
from ..errors import NosejobsError
from ..text import escape_unprintable
from . import discovery, file_names
from .discovery import CandidateFile, FileKind
from .file_names import DEFAULT_PATTERNS
from .metadata import Metadata, resolve_metadata


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
class UncollectedFile:
    """A file that looks like a test and is not collected."""

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

    def explain_uncollected(self, path: str) -> str:
        """Return why the file at ``path``, which is not a test, looks like one; empty if not."""
        if not file_names.resembles_test(os.path.basename(path), self.patterns):
            return ""
        file = read_file(path)
        return discovery.explain_uncollected(file, self.patterns) if file else ""

    def classify(self, path: str, name: str, is_explicit: bool) -> Program | InvalidTest | None:
        """Classify the file at ``path``; return None if it is not a test.

        ``name``: path relative to the root.  ``is_explicit``: the user named the file.
        """
        # Strings, not Paths: creating a Path for each of thousands would cost more than the rest.
        if not is_explicit and not file_names.can_be_test(os.path.basename(path), self.patterns):
            return None
        if is_explicit and os.path.splitext(path)[1] == ".py":
            return None
        file = read_file(path)
        if file is None:
            return None
        result = discovery.classify(file, is_explicit)
        if result.kind is not FileKind.TEST and not self._has_wrapper(name, file):
            if result.kind is FileKind.OTHER:
                return None
            return InvalidTest(f"{escape_unprintable(name)}: {result.reason}")
        try:
            metadata = resolve_metadata(self.defaults, self.tree, name, file.head)
        except NosejobsError as error:
            return InvalidTest(str(error))
        argv = () if metadata.run else result.argv
        runs = self.repeat or metadata.repeat or 1
        return Program(escape_unprintable(name), argv, metadata, runs)

    def _has_wrapper(self, name: str, file: CandidateFile) -> bool:
        """Return whether a wrapper runs the file, which then needs neither exec bit nor shebang."""
        try:
            return bool(resolve_metadata(self.defaults, self.tree, name, file.head).run)
        except NosejobsError:
            return False


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
