"""Open the sources of the dispatcher's file, and clean up after a process that was killed."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..configuration import settings
from ..configuration.settings import PART
from .directory_source import DirectorySource
from .git_source import GitSource, remove_leftovers
from .source import Source


def recover(mirrors: Path) -> None:
    """Remove what was being written when its process died.

    Call it only while no source of ``mirrors`` is open.  A git process that outlives its
    dispatcher for a moment fails without its lock or its unfinished pack.
    """
    for path in mirrors.glob(f"{PART}*"):
        shutil.rmtree(path, ignore_errors=True)
    for mirror in mirrors.glob("*.git"):
        remove_leftovers(mirror)


def open_source(source: settings.Source, mirrors: Path) -> Source:
    """Return the source that a section of the dispatcher's file describes.

    Mirrors of repositories are kept in the folder ``mirrors``.  Raises SourceError for an
    address that git must not be given.
    """
    if source.git:
        return GitSource(source.git, mirrors / f"{source.name}.git")
    return DirectorySource(Path(source.directory))
