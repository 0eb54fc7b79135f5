"""Removal of old results and packages.  Builds, stage runs and tags are kept for ever."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, func, select, update

from .. import model
from . import audit, builds, tables

_BUILD, _CHANGE = tables.build.c, tables.change.c
_RUN, _JOB, _RESULT = tables.stage_run.c, tables.job.c, tables.result.c


def list_expired_builds(
    connection: Connection, *, before: float, keep: int, levels: Collection[str] = ()
) -> list[int]:
    """Return the ids of builds whose results and artifacts may be removed, oldest first.

    They were created before the timestamp ``before``, are not among the newest ``keep`` of their
    source, have none of the ``levels`` that are kept for ever, and are not active.
    """
    place = func.row_number().over(partition_by=_CHANGE.source, order_by=_BUILD.id.desc())
    ranked = (
        select(_BUILD.id, place.label("place"))
        .join(tables.change, _CHANGE.id == _BUILD.change)
        .subquery()
    )
    statement = (
        select(_BUILD.id)
        .join(ranked, ranked.c.id == _BUILD.id)
        .where(ranked.c.place > keep, _BUILD.created_at < before, _BUILD.removed_at.is_(None))
        .where(_BUILD.level.not_in(sorted(levels)))
        .order_by(_BUILD.id)
    )
    active = set(builds.list_active_ids(connection))
    return [build for build in connection.execute(statement).scalars() if build not in active]


def remove_results(connection: Connection, build: int, at: float) -> bool:
    """Remove the results of a build, and its references to files.

    ``list_referenced_digests`` then no longer names these files.  Return False if they had been
    removed before.
    """
    where = (_BUILD.id == build, _BUILD.removed_at.is_(None))
    statement = update(tables.build).where(*where).values(removed_at=at)
    if connection.execute(statement).rowcount != 1:
        return False
    runs = select(_RUN.id).where(_RUN.build == build)
    its_jobs = select(_JOB.id).where(_JOB.stage_run.in_(runs))
    connection.execute(delete(tables.result).where(_RESULT.job.in_(its_jobs)))
    connection.execute(update(tables.job).where(_JOB.stage_run.in_(runs)).values(removed_at=at))
    audit.write(connection, at, "remove results", build=build, actor=model.POLICY)
    return True


def list_referenced_digests(connection: Connection) -> set[str]:
    """Return the digests of the packages and artifacts that must be kept."""
    packages = select(_JOB.package_digest).where(
        _JOB.package_digest != "", _JOB.removed_at.is_(None)
    )
    artifacts = select(_BUILD.artifact_digest).where(
        _BUILD.artifact_digest != "", _BUILD.removed_at.is_(None)
    )
    return set(connection.execute(packages.union(artifacts)).scalars())
