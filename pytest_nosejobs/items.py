"""Pytest items that are programs.

An item knows its program and how to describe it; an ``ItemRunner`` runs it.  What counts as a
test, and its metadata, is decided in ``shell_runner``.
"""

from __future__ import annotations

import bdb
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import pytest

from shell_runner.collection.metadata import DEFAULT_TIMEOUT, make_test
from shell_runner.collection.programs import Program
from shell_runner.errors import NosejobsError
from shell_runner.remote.protocol.command_words import build_command, expand_placeholders
from shell_runner.remote.protocol.model import Execution, Result, Test
from shell_runner.reporting.attempts import EarlierAttempt
from shell_runner.text import quote_command

from . import other_plugins
from .failure_text import FailureText
from .protocol_hooks import HooksWithoutSetup
from .pytest_internals import make_marker

#: Keywords of a folder and all nodes above it, kept for the reports of the programs in it.
_FOLDER_KEYWORDS = pytest.StashKey[dict[str, Any]]()
#: Hooks of the files of a folder, which pytest would find anew for each node.
_FOLDER_HOOKS = pytest.StashKey[Any]()


class ShellFailure(AssertionError, bdb.BdbQuit):
    """A program did not pass.

    Other plugins tell by the AssertionError that the test failed and is not broken.  It is a
    BdbQuit so that ``--pdb`` does not stop for it: there is no Python frame of the user's to look
    at.  ``LocalRunner`` calls ``pytest_exception_interact`` instead of pytest.
    """

    def __init__(self, test: Test, execution: Execution, result: Result, text: FailureText) -> None:
        super().__init__(result.message)
        self.test = test
        self.execution = execution
        self.result = result
        self.text = text


@dataclass(frozen=True)
class RemoteResult:
    """The result of an item that is known before pytest's protocol is run for it."""

    #: The name of the host; empty if the item was on none.
    host: str = ""
    #: The attempts and their executions, in order; empty if the item was not run.
    attempts: Sequence[tuple[Test, Execution]] = ()
    #: Raised by a setup hook of another plugin before the test would have been sent.
    setup_error: BaseException | None = None
    #: The plugins whose setup hooks have been called.
    set_up_plugins: Sequence[object] = ()


class ItemRunner(Protocol):
    """Runs items by pytest's ordinary protocol.

    Both methods raise ``ShellFailure``, or skip the test by ``pytest.skip``.
    """

    def check_requirements(self, item: ShellItem) -> None:
        """Check in the setup phase that this machine has the labels that ``item`` requires."""

    def run_item(self, item: ShellItem) -> None:
        """Run ``item`` to its end."""


@dataclass(frozen=True)
class ItemSettings:
    """Settings that all items of a session share."""

    #: The root of the tree that is shipped to hosts.
    root: Path
    #: Seconds by the options of the run; None: not set.
    timeout: float | None
    #: Names of output formats that are known before a program runs, by file suffix.
    formats: Mapping[str, str]

    @cached_property
    def root_prefix(self) -> str:
        """Return the root as it begins the path of a file in it."""
        return f"{self.root}{os.sep}"


class ShellItem(pytest.Item):
    """One program to run; its parent is the program's file.

    Most runs never look at that file, nor at the item's path as a Path: both are made when they
    are needed.
    """

    #: Names and values of fixtures, which plugins look up in every item; a program has none.
    fixturenames: Sequence[str] = ()
    funcargs: Mapping[str, object] = MappingProxyType({})

    def __init__(
        self,
        *,
        runner: ItemRunner,
        settings: ItemSettings,
        program: Program,
        program_id: str,
        file_path: str,
        make_file: Callable[[], pytest.File] | None,
        parent: pytest.Collector,
        **kwargs: Any,
    ) -> None:
        """``program_id``: the path relative to pytest's rootdir, and the run of a repeated test.

        Configuration, JUnit XML, artifacts and messages name a program by it.  ``parent``: the
        program's file; its folder if ``make_file`` makes the file once it is needed.
        """
        super().__init__(parent=parent, **kwargs)
        self.file_path = file_path
        self._path: Path | None = None
        self._folder = parent
        self._make_file = make_file
        if make_file is not None:
            self._parent: pytest.Collector | None = None
        self._hooks = get_folder_hooks(parent, file_path) if make_file else parent.ihook
        #: The node id of the program's file: its path relative to pytest's rootdir.
        self.file_id = program.nodeid
        self.program_id = program_id
        self._runner = runner
        self._settings = settings
        self.argv = program.argv
        self.metadata = program.metadata
        #: The last test and its execution by the ordinary protocol, for the reports.
        self.local_result: tuple[Test, Execution] | None = None
        #: Set while pytest's protocol is run for an item whose result is known already.
        self.remote_result: RemoteResult | None = None
        #: The number of reruns by pytest-retry; None: it is not active.
        self.plugin_retries: int | None = None
        self.earlier_attempts: list[EarlierAttempt] = []
        #: Reports of the earlier attempts by the ordinary protocol.
        self.rerun_reports: list[pytest.TestReport] = []
        #: The reason why the test is skipped before it starts; empty if it is not.
        self.unmet_reason = ""
        self.own_markers += [make_marker(tag).mark for tag in program.metadata.tags]
        self._keywords: Any = None

    @property
    def parent(self) -> pytest.Collector | None:
        """Return the program's file."""
        if self._parent is None and self._make_file is not None:
            self._parent, self._make_file = self._make_file(), None
        return self._parent

    @parent.setter
    def parent(self, parent: pytest.Collector | None) -> None:
        self._parent = parent

    @property
    def path(self) -> Path:
        """Return the program's path."""
        if self._path is None:
            self._path = Path(self.file_path)
        return self._path

    @path.setter
    def path(self, path: Path) -> None:
        self._path = path

    @property
    def keywords(self) -> Any:
        """Return pytest's mapping of the names and markers of this node and those above it."""
        if self._keywords is None:
            node_keywords: Any = type(self._folder.keywords)
            self._keywords = node_keywords(self)
            self._keywords.update((mark.name, mark) for mark in self.own_markers)
        return self._keywords

    @keywords.setter
    def keywords(self, keywords: Any) -> None:
        self._keywords = keywords

    def iter_markers_with_node(self, name: str | None = None) -> Iterator[tuple[Any, pytest.Mark]]:
        """Yield the markers of this node and those above it; a file not yet made has none."""
        if self._parent is not None:
            yield from super().iter_markers_with_node(name)
            return
        for mark in self.own_markers:
            if name is None or mark.name == name:
                yield self, mark
        yield from self._folder.iter_markers_with_node(name)

    @property
    def ihook(self) -> Any:
        """Return the hooks of the program's folder."""
        done = self.remote_result.set_up_plugins if self.remote_result is not None else ()
        return HooksWithoutSetup(self.config, self._hooks, done) if done else self._hooks

    @property
    def location(self) -> tuple[str, int | None, str]:
        """Return path, line and name; pytest's own property resolves paths for each item."""
        return self.get_location(self.name)

    def get_location(self, name: str) -> tuple[str, int | None, str]:
        """Return path, line from 0 and name for a report of the program or of one of its cases."""
        return make_location(self.file_id, name)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return path, line and name for pytest's reports."""
        # There is always a line: pytest asserts one when it reports a skip by a marker.
        return self.path, 0, self.name

    def setup(self) -> None:
        """Prepare the item in the ordinary protocol."""
        self._runner.check_requirements(self)

    def runtest(self) -> None:
        """Run the item in the ordinary protocol, on this machine."""
        self._runner.run_item(self)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Return the text of an exception of the ordinary protocol."""
        if isinstance(excinfo.value, ShellFailure):
            return excinfo.value.text
        if isinstance(excinfo.value, NosejobsError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    # -- for runners and reports --------------------------------------------------

    def make_test(self, number: int) -> Test:
        """Return what a host must know of the test; ``number`` becomes its id."""
        # Not ``path.suffix``: a Path of each of thousands of files would cost more than the rest.
        format_name = self._settings.formats.get(os.path.splitext(self.file_path)[1], "")
        path, timeout = self._get_path_in_tree(), self._get_timeout()
        return make_test(number, path, self.argv, self.metadata, timeout, format_name)

    def _get_path_in_tree(self) -> str:
        """Return the path relative to the root.

        It stays absolute if the program is elsewhere; then only this machine can run it.
        """
        return self.file_path.removeprefix(self._settings.root_prefix)

    def _get_timeout(self) -> float:
        """Return the seconds by metadata, our options, pytest-timeout or the default."""
        return (
            self.metadata.timeout
            or self._settings.timeout
            or other_plugins.get_timeout(self)
            or DEFAULT_TIMEOUT
        )

    def get_report_keywords(self) -> dict[str, Any]:
        """Return the keywords of the item and all nodes above it, as pytest's reports have them."""
        own = {self.name: 1, **{mark.name: 1 for mark in self.own_markers}}
        if self._parent is not None:
            return {**dict.fromkeys(self._parent.keywords, 1), **own}
        keywords = self._folder.stash.get(_FOLDER_KEYWORDS, None)
        if keywords is None:
            keywords = self._folder.stash[_FOLDER_KEYWORDS] = dict.fromkeys(
                self._folder.keywords, 1
            )
        return {os.path.basename(self.file_path): 1, **keywords, **own}

    def get_attempt_attributes(self) -> dict[str, Any]:
        """Return the report attributes about earlier attempts; ``rerun`` is rerunfailures'."""
        if not self.earlier_attempts:
            return {}
        return {
            "nosejobs_earlier": tuple(
                (each.outcome, each.message) for each in self.earlier_attempts
            ),
            "rerun": len(self.earlier_attempts),
        }

    @property
    def command(self) -> str:
        """Return the command that executes the test, as typed in its directory."""
        root = os.path.relpath(self._settings.root, self.path.parent)
        return quote_command(*build_command(self.make_test(0), f"./{self.path.name}", root))

    @property
    def rerun_command(self) -> str:
        """Return one line that runs the test again by hand, from where pytest was started."""
        start = self.config.invocation_params.dir
        folder = os.path.relpath(self.path.parent, start)
        command = self.command
        if self.metadata.cwd == "root":
            folder = os.path.relpath(self._settings.root, start)
            path = f"./{os.path.relpath(self.path, self._settings.root)}"
            command = quote_command(*build_command(self.make_test(0), path, "."))
        root = str(self._settings.root)
        variables = " ".join(
            f"{name}={quote_command(expand_placeholders(value, str(self.path), root))}"
            for name, value in dict(self.metadata.env).items()
        )
        command = f"{variables} {command}".strip()
        return command if folder == "." else f"cd {quote_command(folder)} && {command}"


def get_folder_hooks(folder: pytest.Collector, file_path: str) -> Any:
    """Return the hooks of the files of ``folder``, one of which is at ``file_path``.

    They are looked for once for a folder.
    """
    hooks = folder.stash.get(_FOLDER_HOOKS, None)
    if hooks is None:
        hooks = folder.stash[_FOLDER_HOOKS] = folder.session.gethookproxy(Path(file_path))
    return hooks


def make_location(file_id: str, name: str) -> tuple[str, int | None, str]:
    """Return path, line from 0 and name for the report of a program or a case of a file."""
    # Pytest's terminal rewrites the dots of a name that ends the node id; a space prevents it.
    return (file_id, 0, f"{name} " if "." in name else name)


def select_shell_items(items: Iterable[pytest.Item]) -> list[ShellItem]:
    """Return the items that are programs."""
    return [item for item in items if isinstance(item, ShellItem)]
