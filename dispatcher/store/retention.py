"""What is old enough to go: results and packages.  Builds, stage runs and tags stay for ever."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, func, select, update

from .. import model
from . import audit, builds, tables

_BUILD, _CHANGE = tables.build.c, tables.change.c
_RUN, _JOB, _RESULT = tables.stage_run.c, tables.job.c, tables.result.c


def expired(
    connection: Connection, *, before: float, keep: int, levels: Collection[str] = ()
) -> list[int]:
    """Builds whose results and artefacts may go, oldest first.

    They began before a date, are not among the newest ``keep`` of their source, have none of
    the ``levels`` that are kept for ever, and nothing can come of them by itself.
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
        .where(ranked.c.place > keep, _BUILD.began < before, _BUILD.removed.is_(None))
        .where(_BUILD.level.not_in(sorted(levels)))
        .order_by(_BUILD.id)
    )
    active = set(builds.active(connection))
    return [build for build in connection.execute(statement).scalars() if build not in active]


def forget(connection: Connection, build: int, at: float) -> bool:
    """Remove the results of a build and let go of its files; False: that is done already.

    Which files nobody refers to any more says ``referred``.
    """
    where = (_BUILD.id == build, _BUILD.removed.is_(None))
    statement = update(tables.build).where(*where).values(removed=at)
    if connection.execute(statement).rowcount != 1:
        return False
    runs = select(_RUN.id).where(_RUN.build == build)
    its_jobs = select(_JOB.id).where(_JOB.stage_run.in_(runs))
    connection.execute(delete(tables.result).where(_RESULT.job.in_(its_jobs)))
    connection.execute(update(tables.job).where(_JOB.stage_run.in_(runs)).values(removed=at))
    audit.write(connection, at, "remove results", build=build, who=model.POLICY)
    return True


def referred(connection: Connection) -> set[str]:
    """Digests of the files that have to stay: packages, artefacts."""
    packages = select(_JOB.package).where(_JOB.package != "", _JOB.removed.is_(None))
    artefacts = select(_BUILD.digest).where(_BUILD.digest != "", _BUILD.removed.is_(None))
    return set(connection.execute(packages.union(artefacts)).scalars())
