"""Arguments that pytest cannot read by itself: pasted ids of cases, names with ``::`` and ``[``.

Owns their rewriting.  pytest splits an argument at ``::`` and at ``[``; the name of a
file may hold both, and a case is no node.  So such a file is asked for by its folder,
and everything else in that folder is ignored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

#: One run of a repeated test is a node, which pytest finds by itself.
_REPEAT = re.compile(r"::repeat-\d+-of-\d+$")


# pytest 8.4 wants plugins to be hashable, which what is compared by value is not.
@dataclass(eq=False)
class Arguments:
    """Arguments for pytest, and the files that are meant by some of them."""

    args: list[str]
    #: Folders that were asked for only because of these files in them.
    only: dict[Path, set[Path]] = field(default_factory=dict)

    def ignores(self, path: Path) -> bool:
        """Whether ``path`` lies in such a folder and was not meant."""
        wanted = self.only.get(path.parent)
        return wanted is not None and path not in wanted

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """As a plugin of its own, registered only if there is something to ignore."""
        return True if self.ignores(collection_path) else None


def rewrite(args: Iterable[str], base: Path) -> Arguments:
    """What pytest should see of ``args``, given relative to ``base``."""
    args = list(args)
    result = Arguments([])
    for arg in args:
        path = _program(arg, base)
        if path is None:
            result.args.append(arg)
        elif "::" in path or "[" in path:
            result.args.append(str(_ask_for(Path(os.path.abspath(base / path)), result.only)))
        else:
            result.args.append(path)
    given = [Path(os.path.abspath(base / arg.partition("::")[0])) for arg in result.args]
    for folder in list(result.only):
        result.only[folder].update(
            folder / path.relative_to(folder).parts[0] for path in given if folder in path.parents
        )
    asked = {Path(os.path.abspath(base / arg)) for arg in args}
    for folder in list(result.only):
        # A folder that was also asked for by itself, or with one above it, is wanted whole.
        if not asked.isdisjoint([folder, *folder.parents]):
            del result.only[folder]
    return result


def _ask_for(full: Path, only: dict[Path, set[Path]]) -> Path:
    """The nearest folder that pytest can be asked for; in it and below, only this file."""
    while True:
        only.setdefault(full.parent, set()).add(full)
        full = full.parent
        if not ("::" in str(full) or "[" in str(full)) or full == full.parent:
            return full


def _program(arg: str, base: Path) -> str | None:
    """The longest head of ``arg`` that is a file of ours; None if pytest can do without us."""
    if not ("::" in arg or "[" in arg) or _REPEAT.search(arg):
        return None
    heads = [arg]
    while "::" in heads[-1]:
        heads.append(heads[-1].rpartition("::")[0])
    for head in heads:
        if not head.endswith(".py") and _is_file(base / head):
            return head
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
