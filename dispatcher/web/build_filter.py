"""The check that the names in a filter of builds exist.

A filter with a misspelled name would else look like one that matches nothing yet.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from shell_runner.errors import UsageError
from shell_runner.validators import format_similar

from ..configuration import pipeline
from ..model import GOOP
from ..store import api_queries, changes

#: Number of the newest builds whose configs define the levels that a build can reach.
_LEVEL_SAMPLE_SIZE = 100
#: Maximum characters of a name in an error.
_MAX_NAME_CHARS = 60


def check_names(connection: Connection, wanted: api_queries.BuildFilter) -> None:
    """Raise UsageError if no build can match because a source or a level does not exist.

    A branch is not checked: any name can be that of a branch.
    """
    if wanted.source is not None:
        names = [source.name for source in changes.list_sources(connection)]
        _check_name("source", wanted.source, names)
    if wanted.level is not None:
        _check_name("level", wanted.level, list_levels(connection))


def list_levels(connection: Connection) -> list[str]:
    """Return the levels that a build has or can reach, the lowest first."""
    configs = api_queries.list_newest_configs(connection, _LEVEL_SAMPLE_SIZE)
    defined = [level.name for each in configs for level in pipeline.from_json(each).levels]
    defaults = [level.name for level in pipeline.DEFAULT_LEVELS]
    used = api_queries.list_used_levels(connection)
    return list(dict.fromkeys([GOOP, *(defined or defaults), *used]))


def _check_name(kind: str, name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    shown = repr(name[:_MAX_NAME_CHARS])
    if not known:
        raise UsageError(f"there is no {kind} {shown}; there is none yet")
    hint = format_similar(name, known)
    raise UsageError(f"there is no {kind} {shown}{hint}\n  {kind}s: {', '.join(known)}")
