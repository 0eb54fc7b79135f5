"""From a description to a job: which tests it has, and what has to be on the host for it.

Owns the choice of what travels: of tests what a live run would ship, of a build all of it.
Reads the disk; knows no gateways.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..collection.plan import Plan, plan
from ..errors import UsageError
from ..hosts.spec import HostSpec
from ..remote import formats
from ..remote.archives.extract import BadArchive, look, unpack
from ..remote.protocol.job import ARCHIVE, TREE, Content, JobTest, NewJob
from ..shipping import tree_scan, upload
from ..shipping.tree_scan import Selection, SourceTree
from ..text import shorten_list, strip_control_chars
from .client import new_job
from .jobfile import Description

#: Broken tests, and files that stay, that are named.
_NAMED = 20


@dataclass(frozen=True)
class Submission:
    """A job that is ready to be handed in."""

    job: NewJob
    #: What has to be on the host first.
    trees: tuple[SourceTree, ...]
    #: What a person should know of what stays here.
    notes: tuple[str, ...] = ()


def prepare(wanted: Description, spec: HostSpec, id: str) -> Submission:
    """All that can be wrong is found here, before a host hears of it; raises UsageError."""
    found = _plan(wanted, spec)
    if wanted.build is not None and not wanted.build.is_dir():
        _look(wanted.build)
    paths = [case.test.path for case in found.tests]
    selection = Selection(wanted.include, wanted.exclude)
    tests = _tree(wanted.tests, paths, selection, whole=False)
    build = None if wanted.build is None else _tree(wanted.build, (), Selection(), whole=True)
    config = wanted.config._replace(
        slots=wanted.config.slots or spec.slots,
        formats=tuple((module.NAME, "") for module in formats.builtin()),
    )
    job = new_job(
        id,
        _content(wanted.tests, tests),
        _content(wanted.build, build) if wanted.build and build else None,
        config,
        found.tests,
        wanted.name,
        wanted.labels,
        wanted.priority,
    )
    trees = tuple(tree for tree in (build, tests) if tree is not None)
    left = [words for tree in trees for words in tree.left]
    return Submission(job, trees, tuple(shorten_list(left, _NAMED)))


def _plan(wanted: Description, spec: HostSpec) -> Plan:
    if wanted.tests.is_dir():
        return _planned(wanted.tests, wanted, spec)
    with tempfile.TemporaryDirectory(prefix="nosejobs-plan-") as folder:
        try:
            unpack(str(wanted.tests), folder)
        except BadArchive as error:
            raise UsageError(f"{wanted.tests}: {strip_control_chars(str(error))}") from error
        except OSError as error:
            raise UsageError(f"{wanted.tests}: {error.strerror or error}") from error
        return _planned(Path(folder), wanted, spec)


def _look(archive: Path) -> None:
    try:
        look(str(archive), archive.name)
    except BadArchive as error:
        raise UsageError(f"{archive}: {strip_control_chars(str(error))}") from error
    except OSError as error:
        raise UsageError(f"{archive}: {error.strerror or error}") from error


def _planned(root: Path, wanted: Description, spec: HostSpec) -> Plan:
    found = plan(
        root, wanted.select, labels=frozenset(spec.labels), host=spec.id, timeout=wanted.timeout
    )
    if found.broken:
        words = "\n  ".join(shorten_list(found.broken, _NAMED))
        raise UsageError(f"{wanted.tests}: these look like tests and cannot run:\n  {words}")
    if not found.tests:
        hint = "; Python files stay pytest's" if found.left_out else ""
        raise UsageError(f"{wanted.tests}: no tests were found{hint}\n  try: docs/collection.md")
    _check_unique(wanted.tests, found.tests)
    return found


def _check_unique(path: Path, tests: Sequence[JobTest]) -> None:
    seen: set[str] = set()
    for test in tests:
        if test.nodeid in seen:
            raise UsageError(f"{path}: two tests are called {test.nodeid}")
        seen.add(test.nodeid)


def _tree(path: Path, tests: Sequence[str], selection: Selection, whole: bool) -> SourceTree:
    if path.is_dir():
        return tree_scan.scan(path, tests, selection, whole=whole)
    return tree_scan.archive(path)


def _content(path: Path, tree: SourceTree) -> Content:
    if path.is_dir():
        digest, size = upload.named(tree)
        return Content(TREE, digest, size, path.resolve().name)
    (entry,) = tree.entries
    return Content(ARCHIVE, entry.digest, entry.size, path.name)
