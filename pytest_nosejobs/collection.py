"""Collection of the files of a session: programs, repeated programs and invalid ones."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from shell_runner.collection.programs import CollectionRules, InvalidTest, Program
from shell_runner.errors import UsageError
from shell_runner.text import escape_unprintable

from . import pytest_internals
from .items import ItemRunner, ItemSettings, ShellItem, get_folder_hooks
from .node_ids import get_stem

#: Number of programs from which on the garbage collector is tuned, also without hosts.
MANY_PROGRAMS = 1000


class ProgramFile(pytest.File):
    """The file of a program: one item, ``test_sort.sh::test_sort``.

    A program that runs several times has an item for each run, ``test_sort.sh::repeat-2-of-3``.
    As items, the runs have their own outcomes, testcases and entries in ``--lf``; ``-x`` stops
    between them, and they spread over slots like other tests.  The file's own id selects all
    of its runs.
    """

    make_item: Callable[[ProgramFile, str, Program, int], ShellItem]
    program: Program
    hooks: Any

    @property
    def ihook(self) -> Any:
        """Return the hooks of the file's folder, without looking for its conftest files again."""
        return self.hooks

    def collect(self) -> Iterator[ShellItem]:
        """Yield the items of all runs, from 1."""
        for number in range(1, self.program.runs + 1):
            yield self.make_item(self, str(self.path), self.program, number)


class BrokenFile(pytest.File):
    """A file that looks like a test but cannot be run: a collection error."""

    reason = ""

    def collect(self) -> NoReturn:
        """Raise CollectError with the reason."""
        raise self.CollectError(self.reason)

    @classmethod
    def create(cls, parent: pytest.Collector, path: Path, name: str, reason: str) -> BrokenFile:
        """Return the collector whose error says ``reason``; ``name``: the path below the root."""
        node = cls.from_parent(parent, path=path, nodeid=escape_unprintable(name))
        node.reason = reason
        return node


class Collection:
    """Makes the nodes of a session."""

    def __init__(
        self,
        config: pytest.Config,
        rules: CollectionRules,
        runner: ItemRunner,
        settings: ItemSettings,
        is_strict: bool = False,
        expect_many: Callable[[], object] = lambda: None,
    ) -> None:
        """``runner`` and ``settings`` are passed to the items.

        ``is_strict``: a file that looks like a test and is not collected is an error.
        ``expect_many`` is called once there are ``MANY_PROGRAMS``.
        """
        self._config = config
        self._rules = rules
        self._runner = runner
        self._settings = settings
        self._prefix = str(config.rootpath) + os.sep
        self._registered_tags: set[str] = set()
        self._is_strict = is_strict
        self._expect_many = expect_many
        self._program_count = 0
        #: Results of the rules by path and whether the user named the file: for each argument,
        #: pytest collects the whole folder of the file again.
        self._results: dict[tuple[str, bool], Program | InvalidTest | None] = {}
        #: Reasons by path of the files that look like tests and are not collected.
        self._uncollected: dict[str, str] = {}

    def collect(self, path: str, parent: pytest.Collector, is_named: bool) -> Any:
        """Return an item or a collector; None if the file is not a test.

        ``is_named``: the command line names it.
        """
        name = path.removeprefix(self._prefix)
        if name == path:  # as in pytest, a file outside of its rootdir has a relative id, too
            name = os.path.relpath(path, self._config.rootpath)
        name = name.replace(os.sep, "/")
        if (path, is_named) not in self._results:
            self._results[path, is_named] = self._rules.classify(path, name, is_named)
        result = self._results[path, is_named]
        if isinstance(result, InvalidTest):
            return BrokenFile.create(parent, Path(path), name, result.message)
        if result is not None:
            return self._make_node(path, parent, result, is_named)
        reason = self._rules.explain_uncollected(path)
        if reason and self._is_strict:
            message = f"{escape_unprintable(name)}: looks like a test, but {reason}"
            return BrokenFile.create(parent, Path(path), name, message)
        if reason:
            self._uncollected[path] = reason
        return None

    def register_all_tags(self) -> None:
        """Register the tags of all programs that the command line means, without collecting."""
        from shell_runner.collection.tree_walker import TreeWalker  # needed for this only

        walker = TreeWalker(self._config.rootpath, self._rules)
        for path in self._list_argument_paths():
            with contextlib.suppress(UsageError):  # it has no program
                for run in walker.find([path]).runs:
                    self._register_tags(run.program)

    def get_uncollected(self) -> dict[str, str]:
        """Return why files below the folders of the command line look like tests and are none.

        For a file that is named there, pytest also offers the others of its folder.
        """
        folders = filter(os.path.isdir, self._list_argument_paths())
        prefixes = tuple(os.path.join(folder, "") for folder in folders)
        return {
            escape_unprintable(path.removeprefix(self._prefix)): reason
            for path, reason in sorted(self._uncollected.items())
            if path.startswith(prefixes)
        }

    def _list_argument_paths(self) -> list[str]:
        """Return the files and folders that the command line names."""
        base = self._config.invocation_params.dir
        return [os.path.abspath(base / arg.partition("::")[0]) for arg in self._config.args]

    def _make_node(
        self, path: str, parent: pytest.Collector, program: Program, is_named: bool
    ) -> ProgramFile | ShellItem:
        """Return the file of a program, or its only item.

        The item comes alone if pytest need not look for it by the words of the command line: the
        hooks and the report of one more collector cost more than the item.
        """
        self._register_tags(program)
        self._program_count += 1
        if self._program_count == MANY_PROGRAMS:
            self._expect_many()
        if is_named or program.runs > 1:
            return self._make_file(path, parent, program)
        return self._make_item(
            parent, path, program, 1, functools.partial(self._make_file, path, parent, program)
        )

    def _make_file(self, path: str, parent: pytest.Collector, program: Program) -> ProgramFile:
        node: ProgramFile = ProgramFile.from_parent(
            parent,
            path=Path(path),
            name=os.path.basename(path),
            nodeid=pytest_internals.make_node_id(program.nodeid, program.nodeid),
        )
        node.make_item, node.program = self._make_item, program
        node.hooks = get_folder_hooks(parent, path)
        return node

    def _make_item(
        self,
        parent: pytest.Collector,
        path: str,
        program: Program,
        number: int,
        make_file: Callable[[], ProgramFile] | None = None,
    ) -> ShellItem:
        """Return the item of one run; ``number``: from 1.

        ``parent``: the program's file, or its folder if ``make_file`` makes the file later.
        """
        program_id = program.run_nodeid(number)
        # The item of a program's only run has the name of its file without the suffix.
        is_only = program.runs == 1
        name = (
            escape_unprintable(get_stem(os.path.basename(path)))
            if is_only
            else program_id.rpartition("::")[2]
        )
        item: ShellItem = ShellItem.from_parent(
            parent,
            name=name,
            nodeid=pytest_internals.make_node_id(f"{program.nodeid}::{name}", program.nodeid),
            program_id=program_id,
            runner=self._runner,
            settings=self._settings,
            program=program,
            file_path=path,
            make_file=make_file,
        )
        if not is_only:
            item.user_properties += program.run_properties(number)
        return item

    def _register_tags(self, program: Program) -> None:
        """Register the markers of programs, so that Python tests of the session may have them, too.

        In the ini line a ``:`` ends the name, so such a tag cannot be registered.
        """
        for tag in program.metadata.tags:
            if tag not in self._registered_tags and ":" not in tag:
                self._registered_tags.add(tag)
                self._config.addinivalue_line("markers", f"{tag}: marker of shell tests")
