"""The plan of a job: the tests of a tree, in order, as a host needs them.

pytest collects one file after the other with ``programs``; a job plans a whole tree here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import Config, load_config
from ..config_file import find_root
from ..errors import UsageError
from ..remote import formats
from ..remote.protocol.job import JobTest
from ..reporting.report_text import unmet_message
from ..validators import format_suggestion
from .file_names import DEFAULT_PATTERNS
from .metadata import DEFAULT_TIMEOUT, Metadata, make_test, resolve_defaults
from .programs import CollectionRules
from .tree_walker import Run, TreeWalker


@dataclass(frozen=True)
class Plan:
    """The tests of a tree."""

    #: In the order in which pytest would collect them; the index of each is its number.
    tests: tuple[JobTest, ...]
    #: Messages about files that look like tests and cannot be run.
    invalid_tests: tuple[str, ...] = ()
    #: Python files that pytest would collect; jobs do not run them.
    python_tests: tuple[str, ...] = ()
    #: Messages about files that look like tests and are not collected.
    uncollected: tuple[str, ...] = ()


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
    the host.  ``tags``: only tests with one of these markers.  ``timeout`` (seconds), ``repeat``,
    ``defaults``: as on pytest's command line and in its ini file.  ``formats_by_suffix``: formats
    that programs with a suffix always write; None: the built-in ones.  ``tree``: configuration, if
    not that of the nosejobs.toml in the root or the nearest above it.

    Raises UsageError for a name that selects nothing, and for a marker that no test has.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    tree = load_config(find_root(root) or root) if tree is None else tree
    base = resolve_defaults(defaults or Metadata(), tree)
    # The limit of the run takes precedence over that of the tree for all tests.
    limit = timeout or base.timeout or DEFAULT_TIMEOUT
    rules = CollectionRules(tree, tuple(patterns), replace(base, timeout=None), repeat)
    selection = TreeWalker(root, rules).find(names)
    chosen = _select_by_tags(selection.runs, tags)
    formats_of = formats.BUILTIN_SUFFIXES if formats_by_suffix is None else formats_by_suffix
    tests = tuple(
        _make_job_test(number, run, limit, formats_of, labels, host)
        for number, run in enumerate(chosen)
    )
    return Plan(
        tests,
        tuple(selection.invalid_tests),
        tuple(selection.python_tests),
        tuple(selection.uncollected),
    )


def _make_job_test(
    number: int,
    run: Run,
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


def _select_by_tags(runs: Sequence[Run], tags: Sequence[str]) -> Sequence[Run]:
    if not tags:
        return runs
    known = {tag for run in runs for tag in run.program.metadata.tags}
    for tag in tags:
        if tag not in known:
            others = format_suggestion(tag, known) if known else "; there are no markers"
            raise UsageError(f"no test has the marker {tag!r}{others}")
    return [run for run in runs if not set(tags).isdisjoint(run.program.metadata.tags)]
