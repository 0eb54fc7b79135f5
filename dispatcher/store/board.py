"""All rows of many builds that decide what becomes of them, in a bounded number of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import BindParameter, Connection, bindparam, func, select

from .. import model
from . import jobs, results, rows, tables, tags
from .builds import ACTIVE, active

_BUILD, _CHANGE, _SOURCE = tables.build.c, tables.change.c, tables.source.c
_RUN, _JOB = tables.stage_run.c, tables.job.c
_DECISION, _AUDIT = tables.decision.c, tables.audit.c
#: States of stage runs whose jobs are looked at.
_GOING = (model.StageState.RUNNING, model.StageState.PLACING)

#: Those of which each look needs all, made once: to make one takes longer than to run it.
_BUILDS: BindParameter[Any] = bindparam("builds", expanding=True)
_HEADS = (
    select(_SOURCE.name, *_CHANGE, *_BUILD)
    .select_from(
        tables.build.join(tables.change, _CHANGE.id == _BUILD.change).join(
            tables.source, _SOURCE.id == _CHANGE.source
        )
    )
    .where(_BUILD.id.in_(_BUILDS))
    .order_by(_BUILD.id)
)
#: What of active builds somebody else changes, or a look of which it does not keep the rows.
_MARKS = (
    select(_BUILD.id, _BUILD.state, _BUILD.detail, _BUILD.level, _RUN.id, _RUN.state)
    .add_columns(_RUN.detail, _JOB.id, _JOB.state, _JOB.package, _JOB.detail)
    .select_from(
        tables.build.outerjoin(tables.stage_run, _RUN.build == _BUILD.id).outerjoin(
            tables.job, (_JOB.stage_run == _RUN.id) & rows.among(_RUN.state, _GOING)
        )
    )
    .where(_BUILD.id.in_(ACTIVE))
)
_RUNS = select(tables.stage_run).where(_RUN.build.in_(_BUILDS)).order_by(_RUN.id)
_DECISIONS = select(tables.decision).where(_DECISION.build.in_(_BUILDS)).order_by(_DECISION.stage)
_LAST_AUDIT = select(func.max(_AUDIT.id))
_AUDITED = (
    select(_AUDIT.build)
    .where(_AUDIT.id > bindparam("after"), _AUDIT.build.is_not(None))
    .distinct()
)

T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """The rows of a build."""

    source: str
    change: model.Change
    build: model.Build
    #: In the order in which they were added.
    runs: tuple[model.StageRun, ...] = ()
    tags: tuple[model.Tag, ...] = ()
    decisions: tuple[model.Decision, ...] = ()
    #: All of the runs that are running, or are about to have another go.
    jobs: tuple[model.Job, ...] = ()
    #: Of those that have been harvested.
    counts: tuple[tuple[str, results.Counts], ...] = ()


def marks(connection: Connection) -> dict[int, set[Any]]:
    """By active build, what is another one whenever its ``Rows`` are.

    But for tags and decisions: of those that others make, ``audited`` tells.
    """
    found: dict[int, set[Any]] = defaultdict(set)
    for row in connection.execute(_MARKS):
        found[row[0]].add(tuple(row))
    return found


def of(connection: Connection, builds: Collection[int]) -> list[Rows]:
    """Those of some builds, oldest first: seven queries, however many they are."""
    runs = _by_build(connection, builds, _RUNS, rows.stage_run)
    decisions = _by_build(connection, builds, _DECISIONS, rows.decision)
    given: dict[int, list[model.Tag]] = defaultdict(list)
    for tag in tags.of_builds(connection, list(builds)):
        given[tag.build].append(tag)
    going = [
        run.id
        for each in runs.values()
        for run in each
        if run.state in _GOING
    ]
    found: dict[int, list[model.Job]] = defaultdict(list)
    for job in jobs.of_runs(connection, going):
        found[job.stage_run].append(job)
    counted = results.counts(
        connection, [job.id for each in found.values() for job in each if job.package]
    )
    whole = []
    for source, change, build in _heads(connection, builds):
        its_jobs = [job for run in runs[build.id] for job in found.get(run.id, ())]
        counts = tuple((job.id, counted[job.id]) for job in its_jobs if job.id in counted)
        whole.append(
            Rows(
                source, change, build, tuple(runs[build.id]), tuple(given[build.id]),
                tuple(decisions[build.id]), tuple(its_jobs), counts,
            )
        )  # fmt: skip
    return whole


def _heads(
    connection: Connection, builds: Collection[int]
) -> Sequence[tuple[str, model.Change, model.Build]]:
    changes, heads = _CHANGE.keys(), _BUILD.keys()
    end = 1 + len(changes)
    found = []
    for chunk in rows.chunks(sorted(builds)):
        for row in connection.execute(_HEADS, {"builds": chunk}):
            change = model.Change(**dict(zip(changes, row[1:end], strict=True)))
            build = rows.build_of(dict(zip(heads, row[end:], strict=True)))
            found.append((row[0], change, build))
    return found


def _by_build(
    connection: Connection, builds: Collection[int], asked: Any, make: Callable[[Any], T]
) -> dict[int, list[T]]:
    found: dict[int, list[T]] = defaultdict(list)
    for chunk in rows.chunks(sorted(builds)):
        for row in connection.execute(asked, {"builds": chunk}):
            found[row.build].append(make(row))
    return found


def audited(connection: Connection, after: int) -> tuple[int, set[int]]:
    """The newest entry, and the builds of which one later than ``after`` tells.

    Whoever decides about a build that nothing can come of by itself (a tag is revoked, a stage is
    approved) writes an entry in the same transaction.
    """
    last = connection.execute(_LAST_AUDIT).scalar() or 0
    if last <= after:
        return after, set()
    return last, set(connection.execute(_AUDITED, {"after": after}).scalars())


def hosts_of(connection: Connection, builds: Collection[int]) -> dict[int, set[str]]:
    """Hosts that have had a job of a build: they hold its contents."""
    found: dict[int, set[str]] = defaultdict(set)
    for chunk in rows.chunks(sorted(builds)):
        statement = (
            select(_RUN.build, _JOB.host)
            .join(tables.job, _JOB.stage_run == _RUN.id)
            .where(_RUN.build.in_(chunk))
            .distinct()
        )
        for build, host in connection.execute(statement):
            found[build].add(host)
    return found


def trees(connection: Connection, newest: int) -> set[tuple[str, str]]:
    """Source and revision of trees that are worth to stay.

    Those of builds that something can come of, the newest ones, and all of directories whose
    results are kept: nobody could make these again.
    """
    joined = tables.build.join(tables.change, _CHANGE.id == _BUILD.change).join(
        tables.source, _SOURCE.id == _CHANGE.source
    )
    chosen = select(_SOURCE.name, _CHANGE.revision).select_from(joined)
    latest = chosen.order_by(_BUILD.id.desc()).limit(newest)
    kept = chosen.where(_SOURCE.kind == "directory", _BUILD.removed.is_(None))
    found = {(row[0], row[1]) for row in connection.execute(latest)}
    found |= {(row[0], row[1]) for row in connection.execute(kept)}
    for chunk in rows.chunks(active(connection)):
        done = connection.execute(chosen.where(_BUILD.id.in_(chunk)))
        found |= {(row[0], row[1]) for row in done}
    return found
