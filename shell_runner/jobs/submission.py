"""The preparation of a job: which tests it has, and which files the host needs for it.

Of the tests' folder the files are sent that a live run would ship, of a build all files.  Reads
the disk; must not know gateways.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..collection.plan import Plan, make_plan
from ..errors import UsageError
from ..hosts.spec import HostSpec
from ..remote import formats
from ..remote.archives.extract import BadArchive, check_archive, extract_archive
from ..remote.protocol.job import ARCHIVE, TREE, Content, JobTest, NewJob
from ..shipping import file_selection, tree_scan, upload
from ..shipping.file_selection import Selection
from ..shipping.tree_scan import SourceTree
from ..text import shorten_list, strip_control_chars
from .client import make_job
from .jobfile import JobDescription

#: Maximum number of invalid tests, or of files that are not sent, that are listed.
_MAX_LISTED = 20


@dataclass(frozen=True)
class Submission:
    """A job that is ready to be submitted."""

    job: NewJob
    #: Trees that must be uploaded before the job is submitted.
    trees: tuple[SourceTree, ...]
    #: Files that are not sent, each with the reason.
    notes: tuple[str, ...] = ()


def prepare_submission(description: JobDescription, spec: HostSpec, id: str) -> Submission:
    """Check a job and find its tests and files, before the host is contacted.

    Raises :exc:`UsageError` for anything that is wrong with the description, the tests or the
    build.
    """
    found = _plan_tests(description, spec)
    if description.build is not None and not description.build.is_dir():
        _check_archive(description.build)
    paths = [case.test.path for case in found.tests]
    selection = Selection(description.include, description.exclude)
    tests = _scan_tree(description.tests, paths, selection, all_files=False)
    build = (
        None
        if description.build is None
        else _scan_tree(description.build, (), Selection(), all_files=True)
    )
    config = description.config._replace(
        slots=description.config.slots or spec.slots,
        formats=tuple((name, "") for name in formats.BUILTIN_NAMES),
    )
    job = make_job(
        id,
        _describe_content(description.tests, tests),
        _describe_content(description.build, build) if description.build and build else None,
        config,
        found.tests,
        description.name,
        description.labels,
        description.priority,
    )
    trees = tuple(tree for tree in (build, tests) if tree is not None)
    skipped = [reason for tree in trees for reason in tree.skipped]
    notes = [*shorten_list(skipped, _MAX_LISTED), *_describe_left_out(description, tests)]
    return Submission(job, trees, tuple(notes))


def _describe_left_out(description: JobDescription, tests: SourceTree | None) -> list[str]:
    """Return a line about the files of the tests that the rules leave out, if there are any."""
    if tests is None or not description.tests.is_dir():
        return []
    selection = Selection(description.include, description.exclude)
    paths = [entry.path for entry in tests.entries]
    left_out = file_selection.list_left_out(description.tests, paths, selection)
    if not left_out:
        return []
    hint = file_selection.suggest_pattern(left_out)
    text = file_selection.describe_left_out(left_out, _MAX_LISTED)
    return [f'{text}; include = ["{hint}"] sends it']


def _plan_tests(description: JobDescription, spec: HostSpec) -> Plan:
    if description.tests.is_dir():
        return _plan_folder(description.tests, description, spec)
    with tempfile.TemporaryDirectory(prefix="nosejobs-plan-") as folder:
        try:
            extract_archive(str(description.tests), folder)
        except BadArchive as error:
            raise UsageError(f"{description.tests}: {strip_control_chars(str(error))}") from error
        except OSError as error:
            raise UsageError(f"{description.tests}: {error.strerror or error}") from error
        return _plan_folder(Path(folder), description, spec)


def _check_archive(archive: Path) -> None:
    try:
        check_archive(str(archive), archive.name)
    except BadArchive as error:
        raise UsageError(f"{archive}: {strip_control_chars(str(error))}") from error
    except OSError as error:
        raise UsageError(f"{archive}: {error.strerror or error}") from error


def _plan_folder(root: Path, description: JobDescription, spec: HostSpec) -> Plan:
    found = make_plan(
        root,
        description.select,
        labels=frozenset(spec.labels),
        host=spec.id,
        timeout=description.timeout,
    )
    if found.invalid_tests:
        words = "\n  ".join(shorten_list(found.invalid_tests, _MAX_LISTED))
        raise UsageError(f"{description.tests}: these tests cannot run:\n  {words}")
    if not found.tests:
        hint = "; Python tests are run by pytest itself" if found.python_tests else ""
        message = f"{description.tests}: no tests were found{hint}"
        for uncollected in shorten_list(found.uncollected, _MAX_LISTED):
            message += f"\n  {uncollected}"
        raise UsageError(f"{message}\n  see docs/collection.md")
    _check_unique(description.tests, found.tests)
    return found


def _check_unique(path: Path, tests: Sequence[JobTest]) -> None:
    names: set[str] = set()
    for test in tests:
        if test.nodeid in names:
            raise UsageError(f"{path}: two tests have the name {test.nodeid}")
        names.add(test.nodeid)


def _scan_tree(
    path: Path, tests: Sequence[str], selection: Selection, all_files: bool
) -> SourceTree:
    if path.is_dir():
        return tree_scan.scan(path, tests, selection, all_files=all_files)
    return tree_scan.scan_archive(path)


def _describe_content(path: Path, tree: SourceTree) -> Content:
    if path.is_dir():
        digest, size = upload.identify_tree(tree)
        return Content(TREE, digest, size, path.resolve().name)
    (entry,) = tree.entries
    return Content(ARCHIVE, entry.digest, entry.size, path.name)
