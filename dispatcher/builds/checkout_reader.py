"""Read the configuration and the tests of a checkout from its nosejobs.toml.

Must not know the database, nor when anything is built.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shell_runner import config as tree_config
from shell_runner.collection.metadata import check_tests_tables
from shell_runner.collection.plan import make_plan
from shell_runner.config import load_config
from shell_runner.config_file import CONFIG_FILE_NAME
from shell_runner.errors import InvalidConfig, UsageError
from shell_runner.remote.protocol.job import JobTest
from shell_runner.text import to_single_line
from shell_runner.toml_document import Document, parse_document

from ..configuration import pipeline
from ..configuration.pipeline import BuildConfig, Stage
from .checkout_cache import Checkout

#: Bytes of a nosejobs.toml that are read; its parser accepts less.
_MAX_CONFIG_BYTES = 1 << 20
#: Patterns in [tests]; each is compared with each test.
_MAX_TEST_PATTERNS = 1000
#: Comparisons of a file with a pattern of ``build.inputs``; these take about ten seconds.
_MAX_INPUT_COMPARISONS = 5_000_000
#: Characters of an error in it.
_MAX_ERROR_CHARS = 900
#: Invalid tests that an error lists.
_MAX_LISTED_TESTS = 20


@dataclass(frozen=True)
class ExaminedTree:
    """The result of reading a tree: its configuration, or why that is invalid."""

    tree_digest: str
    #: Bytes of all its files.
    size: int
    config: pipeline.PipelineConfig | None = None
    #: Digest by which a build can be reused; empty: the tree is its own build.
    inputs_digest: str = ""
    #: The reason why its configuration is invalid.
    error: str = ""


def examine(checkout: Checkout) -> ExaminedTree:
    """Read the configuration of a tree; an invalid one is a value, not an exception."""
    digest, size = checkout.content.digest, checkout.tree.size
    try:
        document = parse_document(CONFIG_FILE_NAME, _read_config(checkout.root / CONFIG_FILE_NAME))
        config = parse_pipeline(document, checkout.root)
        if config.build:
            _check_inputs(document, config.build, len(checkout.files))
    except UsageError as error:
        return ExaminedTree(digest, size, error=hide_checkout_path(str(error), checkout))
    inputs = pipeline.inputs_digest(config.build, checkout.files) if config.build else ""
    return ExaminedTree(digest, size, config, inputs)


def parse_pipeline(document: Document, root: Path) -> pipeline.PipelineConfig:
    """Check all tables of a tree's nosejobs.toml, and return its pipeline.

    ``root``: folder of the tree.  Raises InvalidConfig, which names file, line and key.
    """
    config = pipeline.from_document(document)
    try:
        tree = tree_config.config_from_document(document, root)
        if len(tree.patterns) > _MAX_TEST_PATTERNS:
            message = f"must be of at most {_MAX_TEST_PATTERNS} patterns, not {len(tree.patterns)}"
            raise document.error(("tests",), message)
        check_tests_tables(tree)
    except UsageError as error:
        # Such a message is for the author of the file, and may quote a whole value.
        raise InvalidConfig(to_single_line(str(error), _MAX_ERROR_CHARS)) from None
    return config


def _check_inputs(doc: Document, build: BuildConfig, files: int) -> None:
    """Raise InvalidConfig if comparing all patterns with all files would take too long."""
    if len(build.inputs) * files > _MAX_INPUT_COMPARISONS:
        message = f"has {len(build.inputs)} patterns for {files} files, too many to compare"
        raise doc.error(("build", "inputs"), f"{message}; name folders instead")


def _read_config(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_CONFIG_BYTES)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InvalidConfig(f"{CONFIG_FILE_NAME}: {error.strerror}") from error


def stage_tests(
    checkout: Checkout, stage: Stage, labels: Iterable[str] = (), host: str = ""
) -> tuple[JobTest, ...]:
    """Return the tests of a stage, as a host with these labels gets them.

    ``labels`` and ``host``: labels and name of that host.

    Raises UsageError if the stage selects no test, an invalid test, or two tests with one id.
    """
    return select_tests(checkout.root, stage, labels, host)


def select_tests(
    root: Path, stage: Stage, labels: Iterable[str] = (), host: str = ""
) -> tuple[JobTest, ...]:
    """Return the tests of a stage in the tree with this root; see ``stage_tests``."""
    selection = make_plan(
        root,
        stage.tests,
        labels=frozenset(labels),
        host=host,
        # Without a timeout of the stage, the one of [tests] holds, if there is one.
        timeout=None if stage.timeout == Stage.timeout else stage.timeout,
        tags=stage.tags,
        tree=load_config(root),
    )
    if selection.invalid_tests:
        lines = [*selection.invalid_tests[:_MAX_LISTED_TESTS]]
        if len(selection.invalid_tests) > len(lines):
            lines.append(f"and {len(selection.invalid_tests) - len(lines)} more")
        message = "\n  ".join(lines)
        raise UsageError(f"these files look like tests and cannot run:\n  {message}")
    ids = [test.nodeid for test in selection.tests]
    if len(set(ids)) < len(ids):
        duplicate = next(each for each in ids if ids.count(each) > 1)
        raise UsageError(f"two tests have the id {duplicate}")
    return selection.tests


def hide_checkout_path(message: str, checkout: Checkout) -> str:
    """Return an error message without the path of the checkout on this disk."""
    return message.replace(f"{checkout.root}{os.sep}", "").replace(
        os.fspath(checkout.root), "the tree"
    )
