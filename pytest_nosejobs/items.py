"""Files become items.

Owns the nodes of pytest.  What is a test, and what it says of itself, is ``plan``'s.
"""

from __future__ import annotations

import bdb
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from shell_runner import discovery
from shell_runner.errors import NosejobsError
from shell_runner.plan import Broken, Program, Rules
from shell_runner.remote.model import Execution, Result, Test

if TYPE_CHECKING:
    from .plugin import Plugin

HOST_MARK = "nosejobs"


class ShellFailure(bdb.BdbQuit):
    """A program run by the ordinary protocol did not pass.

    A BdbQuit, so that ``--pdb`` does not stop for it: there is no Python frame of the
    user's to look at.
    """

    def __init__(self, test: Test, execution: Execution, result: Result) -> None:
        super().__init__(result.words)
        self.test = test
        self.execution = execution
        self.result = result


class ShellItem(pytest.Item):
    """One program to run.  It hangs directly on its directory: no file node between."""

    def __init__(self, *, plugin: Plugin, found: Program, **kw: Any) -> None:
        super().__init__(**kw)
        self.plugin = plugin
        self.argv = found.argv
        self.metadata = found.metadata
        #: What came of it, for the reports.
        self.finished: tuple[Test, Execution] | None = None
        #: A report that is on its way through the hooks of other plugins.
        self.made: pytest.TestReport | None = None
        #: Earlier attempts that failed: outcome, a few words, all that is shown of it.
        self.earlier: list[tuple[str, str, str]] = []
        #: Their reports, when the ordinary protocol runs it.
        self.reruns: list[pytest.TestReport] = []
        #: Why it is skipped before it starts.
        self.unmet = ""
        for tag in found.metadata.tags:
            self.add_marker(tag)

    @property
    def location(self) -> tuple[str, int | None, str]:
        """Cheap: pytest's own resolves paths anew for each item."""
        # pytest rewrites the dots of a name that ends the node id; "./" keeps it as it is.
        return (self.nodeid, None, f"./{self.nodeid}")

    def reportinfo(self) -> tuple[Path, int | None, str]:
        # A line in any case: pytest asserts one when it reports a mark that skips.
        return self.path, 0, self.name

    def setup(self) -> None:
        self.plugin.check_requirements(self)

    def runtest(self) -> None:
        """The ordinary protocol: one test, on this machine."""
        self.plugin.run_here(self)

    def attempts_before(self) -> dict[str, Any]:
        """What each of its reports tells of earlier attempts; ``rerun`` is for rerunfailures."""
        if not self.earlier:
            return {}
        return {"nosejobs_earlier": tuple(self.earlier), "rerun": len(self.earlier)}

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        from . import reports as report

        if isinstance(excinfo.value, ShellFailure):
            return report.of_failure(excinfo.value.test, excinfo.value.execution, self)
        if isinstance(excinfo.value, NosejobsError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class RepeatedFile(pytest.File):
    """A program that runs several times: an item for each run, ``program::repeat-2-of-3``.

    An item each, so that every run has its own outcome, testcase and place in ``--lf``,
    ``-x`` stops between runs, and they spread over slots like any other tests.  The
    program's own id means all of its runs.
    """

    make: Callable[[RepeatedFile, int], ShellItem]
    count = 0

    def collect(self) -> Iterator[ShellItem]:
        for number in range(1, self.count + 1):
            yield self.make(self, number)


class BrokenFile(pytest.File):
    """A file that looks like a test and cannot be one: a collection error."""

    why = ""

    def collect(self) -> NoReturn:
        raise self.CollectError(self.why)

    @classmethod
    def create(cls, parent: pytest.Collector, path: Path, why: str) -> BrokenFile:
        """The collector whose error says ``why``."""
        node = cls.from_parent(parent, path=path)
        node.why = why
        return node


class Collection:
    """Collects the files of one session."""

    def __init__(self, plugin: Plugin, rules: Rules, root: Path) -> None:
        self._plugin = plugin
        self._rules = rules
        self._prefix = str(root) + os.sep

    def collect(self, path: Path, parent: pytest.Collector) -> Any:
        """An item, a BrokenFile, or None for what is no test."""
        return self._look(str(path), parent, parent.session.isinitpath(path))

    def program(self, path: str, parent: pytest.Collector) -> Any:
        """The same for a file that nobody has named."""
        return self._look(path, parent, named=False)

    def _look(self, path: str, parent: pytest.Collector, named: bool) -> Any:
        name = path.removeprefix(self._prefix).replace(os.sep, "/")
        found = self._rules.look(path, name, named)
        if isinstance(found, Broken):
            return BrokenFile.create(parent, Path(path), found.why)
        return None if found is None else self._item(Path(path), parent, found)

    def _item(self, path: Path, parent: pytest.Collector, found: Program) -> Any:
        self._plugin.learn_tags(found.metadata)
        settings = {"path": path, "plugin": self._plugin, "found": found}
        if found.runs == 1:
            plain = discovery.printable(path.name)
            return ShellItem.from_parent(parent, name=plain, nodeid=found.nodeid, **settings)

        def make(parent: RepeatedFile, number: int) -> Any:
            nodeid = found.nodeid_of(number)
            run = nodeid.rpartition("::")[2]
            item = ShellItem.from_parent(parent, name=run, nodeid=nodeid, **settings)
            item.user_properties += found.properties_of(number)
            return item

        repeated = RepeatedFile.from_parent(parent, path=path, nodeid=found.nodeid)
        repeated.make, repeated.count = make, found.runs
        return repeated


def shell_items(items: Iterable[pytest.Item]) -> list[ShellItem]:
    """Those that are ours."""
    return [item for item in items if isinstance(item, ShellItem)]
