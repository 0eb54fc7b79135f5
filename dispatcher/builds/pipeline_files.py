"""The configuration and the tests of a checkout, as its nosejobs.toml describes them.

Must not know the database, nor when anything is built.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shell_runner import config as tree_config
from shell_runner.collection.metadata import check_tests
from shell_runner.collection.plan import plan
from shell_runner.config import NAME, load
from shell_runner.errors import BadConfig, UsageError
from shell_runner.remote.protocol.job import JobTest
from shell_runner.text import to_single_line
from shell_runner.toml_document import Document, read

from ..configuration import pipeline
from ..configuration.pipeline import BuildConfig, Stage
from .checkouts import Checkout

#: Bytes of a nosejobs.toml that are read; its parser takes less.
_CONFIG = 1 << 20
#: Patterns of tests that it can speak of, each is compared with each test; and comparisons of
#: files with patterns of inputs: some ten seconds.
_PATTERNS, _COMPARED = 1000, 5_000_000
#: Characters of what is wrong with it.
_WORDS = 900
#: Broken tests that are named.
_NAMED = 20


@dataclass(frozen=True)
class Examined:
    """The result of reading a tree: its configuration, or why that is invalid."""

    #: Its digest, and the bytes of all its files.
    tree: str
    size: int
    config: pipeline.Tree | None = None
    #: Key for reuse; empty: it is its own build.
    inputs: str = ""
    #: Why its configuration is invalid.
    why: str = ""


def examine(checkout: Checkout) -> Examined:
    """Read the configuration of a tree; an invalid one is a value, not an exception."""
    digest, size = checkout.content.digest, checkout.tree.size
    try:
        document = read(NAME, _text(checkout.root / NAME))
        found = understood(document, checkout.root)
        if found.build:
            _check_inputs(document, found.build, len(checkout.files))
    except UsageError as error:
        return Examined(digest, size, why=plain(str(error), checkout))
    inputs = pipeline.inputs_digest(found.build, checkout.files) if found.build else ""
    return Examined(digest, size, found, inputs)


def understood(document: Document, root: Path) -> pipeline.Tree:
    """Return what a tree's file says, after a check of all its tables.

    BadConfig names file, line and key.
    """
    found = pipeline.from_document(document)
    try:
        tree = tree_config.from_document(document, root)
        if len(tree.patterns) > _PATTERNS:
            message = f"must be of at most {_PATTERNS} patterns, not {len(tree.patterns)}"
            raise document.error(("tests",), message)
        check_tests(tree)
    except UsageError as error:
        # Their words are for who wrote the file, and may have all of a value in them.
        raise BadConfig(to_single_line(str(error), _WORDS)) from None
    return found


def _check_inputs(doc: Document, build: BuildConfig, files: int) -> None:
    """Each pattern is compared with each file, on the machine of all."""
    if len(build.inputs) * files > _COMPARED:
        words = f"has {len(build.inputs)} patterns for {files} files, which are too many to compare"
        raise doc.error(("build", "inputs"), f"{words}: name folders instead")


def _text(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_CONFIG)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BadConfig(f"{NAME}: {error.strerror}") from error


def stage_tests(
    checkout: Checkout, stage: Stage, labels: Iterable[str] = (), host: str = ""
) -> tuple[JobTest, ...]:
    """Return the tests of a stage, as a host with these labels gets them.

    Raises UsageError if its names and markers select no test, or one that cannot run.
    """
    found = plan(
        checkout.root,
        stage.tests,
        labels=frozenset(labels),
        host=host,
        # What is not said there is the word of [tests], if it has one.
        timeout=None if stage.timeout == Stage.timeout else stage.timeout,
        tags=stage.tags,
        tree=load(checkout.root),
    )
    if found.broken:
        more = [f"and {len(found.broken) - _NAMED} more"] if len(found.broken) > _NAMED else []
        words = "\n  ".join([*found.broken[:_NAMED], *more])
        raise UsageError(f"these look like tests and cannot run:\n  {words}")
    ids = [test.nodeid for test in found.tests]
    if len(set(ids)) < len(ids):
        twice = next(each for each in ids if ids.count(each) > 1)
        raise UsageError(f"two tests are called {twice}")
    return found.tests


def plain(words: str, checkout: Checkout) -> str:
    """Return a message without the path of the checkout on this disk."""
    return words.replace(f"{checkout.root}{os.sep}", "").replace(
        os.fspath(checkout.root), "the tree"
    )
