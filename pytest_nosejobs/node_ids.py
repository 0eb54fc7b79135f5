"""Command-line arguments that pytest cannot parse: ids of cases, file names with ``::`` or ``[``.

Pytest splits an argument at ``::`` and at ``[``, but the name of a file may contain both, and a
case is not a node.  Such a file is therefore requested by its folder, and everything else in
that folder is ignored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

#: The end of the id of one run of a repeated test; it is a node, which pytest finds itself.
_REPEAT = re.compile(r"::repeat-\d+-of-\d+$")


# pytest 8.4 requires plugins to be hashable, which a dataclass with __eq__ is not.
@dataclass(eq=False)
class Arguments:
    """Arguments for pytest, and the files that some of them stand for.

    It is a plugin of its own, registered only if there is something to ignore.
    """

    args: list[str]
    #: Files to collect, by folder, for the folders that were requested only because of them.
    only: dict[Path, set[Path]] = field(default_factory=dict)
    #: Pairs of a program and the name of a case of it, by the argument that requested them.
    cases: dict[str, tuple[Path, str]] = field(default_factory=dict)

    def ignores(self, path: Path) -> bool:
        """Return whether ``path`` is in such a folder and was not requested."""
        wanted = self.only.get(path.parent)
        return wanted is not None and path not in wanted

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Ignore what was not requested; leave everything else to others."""
        return True if self.ignores(collection_path) else None


class RequestedCases:
    """A plugin that reports requested cases that their programs do not have.

    Only a program that has run tells its cases, so the error comes at the end of the session.
    """

    def __init__(self, arguments: Arguments, rootdir: Path) -> None:
        #: Pairs of a program's id and a case's id, by argument.
        self._requested = {
            arg: (file_id, f"{file_id}::{name}")
            for arg, (path, name) in arguments.cases.items()
            for file_id in [os.path.relpath(path, rootdir).replace(os.sep, "/")]
        }
        self._reported: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which programs have run, and which cases they have."""
        self._reported |= {report.nodeid, report.nodeid.partition("::")[0]}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Make it a usage error, as for a Python test that does not exist."""
        if self._list_missing() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Write which arguments are meant."""
        for arg in self._list_missing():
            file_id = self._requested[arg][0]
            terminalreporter.write_line(
                f"ERROR: not found: {arg} ({file_id} ran and has no such case)", red=True
            )

    def _list_missing(self) -> list[str]:
        return [
            arg
            for arg, (file_id, case_id) in self._requested.items()
            if file_id in self._reported and case_id not in self._reported
        ]


def rewrite_arguments(args: Iterable[str], base: Path) -> Arguments:
    """Return the arguments that pytest should see instead of ``args``.

    ``base``: the folder to which relative arguments refer.
    """
    args = list(args)
    result = Arguments([])
    for arg in args:
        program = _find_program(arg, base)
        if program is None:
            result.args.append(arg)
            continue
        path = Path(os.path.abspath(base / program))
        name = arg.removeprefix(program).removeprefix("::")
        if name and name != get_stem(path.name):
            result.cases[arg] = (path, name)
        if "::" in program or "[" in program:
            result.args.append(str(_request_folder(path, result.only)))
        else:
            result.args.append(arg if name == get_stem(path.name) else program)
    paths = [Path(os.path.abspath(base / arg.partition("::")[0])) for arg in result.args]
    for folder in list(result.only):
        result.only[folder].update(
            folder / path.relative_to(folder).parts[0] for path in paths if folder in path.parents
        )
    requested = {Path(os.path.abspath(base / arg)) for arg in args}
    for folder in list(result.only):
        # A folder that was also requested itself, or with one above it, is collected completely.
        if not requested.isdisjoint([folder, *folder.parents]):
            del result.only[folder]
    return result


def get_stem(file_name: str) -> str:
    """Return the name of a file without its suffix, as ``Path.stem`` does for most names."""
    stem, dot, suffix = file_name.rpartition(".")
    return stem if dot and stem and suffix else file_name


def _request_folder(path: Path, only: dict[Path, set[Path]]) -> Path:
    """Return the nearest folder that pytest can parse; in it and below, only ``path`` counts."""
    while True:
        only.setdefault(path.parent, set()).add(path)
        path = path.parent
        if not ("::" in str(path) or "[" in str(path)) or path == path.parent:
            return path


def _find_program(arg: str, base: Path) -> str | None:
    """Return the longest prefix of ``arg`` that is a shell test; None if pytest can parse it."""
    if not ("::" in arg or "[" in arg) or _REPEAT.search(arg):
        return None
    prefixes = [arg]
    while "::" in prefixes[-1]:
        prefixes.append(prefixes[-1].rpartition("::")[0])
    for prefix in prefixes:
        if not prefix.endswith(".py") and _is_file(base / prefix):
            return prefix
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
