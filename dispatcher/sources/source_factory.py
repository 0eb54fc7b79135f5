"""Open the configured sources, and clean up after a process that was killed."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..configuration import settings
from ..configuration.settings import TEMPORARY_PREFIX
from .directory_source import DirectorySource
from .git_source import GitSource, remove_leftovers
from .source import Source


def recover(mirrors: Path) -> None:
    """Remove the unfinished files of a killed process from the folder of all mirrors.

    Call it only while no source is open.  A git process that outlives its dispatcher for a moment
    fails without its lock or its unfinished pack.
    """
    for path in mirrors.glob(f"{TEMPORARY_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
    for mirror in mirrors.glob("*.git"):
        remove_leftovers(mirror)


def open_source(source: settings.Source, mirrors: Path) -> Source:
    """Return the source that a section of the dispatcher's file describes.

    ``mirrors``: folder of the mirrors of repositories.  Raises SourceError for an address that is
    not allowed.
    """
    if source.git:
        return GitSource(source.git, mirrors / f"{source.name}.git")
    return DirectorySource(Path(source.directory))
