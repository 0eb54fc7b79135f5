"""The rows of many builds that decide what happens to them, in a bounded number of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from sqlalchemy import BindParameter, Connection, bindparam, func, select

from .. import model
from ..model import BuildRows
from . import jobs, results, row_mapping, tables, tags
from .builds import ACTIVE, list_active_ids

_BUILD, _CHANGE, _SOURCE = tables.build.c, tables.change.c, tables.source.c
_RUN, _JOB = tables.stage_run.c, tables.job.c
_DECISION, _AUDIT = tables.decision.c, tables.audit.c
#: States of stage runs whose jobs are read.
_STATES_WITH_JOBS = (model.StageState.RUNNING, model.StageState.PLACING)

# Each pass runs these statements, and building one takes longer than running it.
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
#: Columns that other threads change, or that a pass changes without keeping the new rows.
_MARKS = (
    select(_BUILD.id, _BUILD.state, _BUILD.detail, _BUILD.level, _RUN.id, _RUN.state)
    .add_columns(_RUN.detail, _JOB.id, _JOB.state, _JOB.package_digest, _JOB.detail)
    .select_from(
        tables.build.outerjoin(tables.stage_run, _RUN.build == _BUILD.id).outerjoin(
            tables.job,
            (_JOB.stage_run == _RUN.id) & row_mapping.is_in_states(_RUN.state, _STATES_WITH_JOBS),
        )
    )
    .where(_BUILD.id.in_(ACTIVE))
)
_RUNS = select(tables.stage_run).where(_RUN.build.in_(_BUILDS)).order_by(_RUN.id)
_DECISIONS = select(tables.decision).where(_DECISION.build.in_(_BUILDS)).order_by(_DECISION.stage)
_HOSTS = (
    select(_RUN.build, _JOB.host)
    .join(tables.job, _JOB.stage_run == _RUN.id)
    .where(_RUN.build.in_(_BUILDS))
    .distinct()
)
_LAST_AUDIT = select(func.max(_AUDIT.id))
_AUDITED = (
    select(_AUDIT.build).where(_AUDIT.id > bindparam("after"), _AUDIT.build.is_not(None)).distinct()
)

T = TypeVar("T")


def change_marks(connection: Connection) -> dict[int, set[Any]]:
    """Return, by active build, a value that changes whenever its ``BuildRows`` do.

    Tags and decisions do not change it: see ``audited_builds``.
    """
    marks: dict[int, set[Any]] = defaultdict(set)
    for row in connection.execute(_MARKS):
        marks[row[0]].add(tuple(row))
    return marks


def read_rows(connection: Connection, builds: Collection[int]) -> list[BuildRows]:
    """Return the rows of some builds, oldest build first, in seven queries."""
    runs = _by_build(connection, builds, _RUNS, row_mapping.stage_run_from_row)
    decisions = _by_build(connection, builds, _DECISIONS, row_mapping.decision_from_row)
    tags_by_build: dict[int, list[model.Tag]] = defaultdict(list)
    for tag in tags.list_by_builds(connection, list(builds)):
        tags_by_build[tag.build].append(tag)
    runs_with_jobs = [
        run.id for its_runs in runs.values() for run in its_runs if run.state in _STATES_WITH_JOBS
    ]
    jobs_by_run: dict[int, list[model.Job]] = defaultdict(list)
    for job in jobs.list_by_runs(connection, runs_with_jobs):
        jobs_by_run[job.stage_run].append(job)
    counts = results.count_outcomes(
        connection,
        [job.id for its_jobs in jobs_by_run.values() for job in its_jobs if job.package_digest],
    )
    all_rows = []
    for source, change, build in _heads(connection, builds):
        its_jobs = [job for run in runs[build.id] for job in jobs_by_run.get(run.id, ())]
        its_counts = tuple((job.id, counts[job.id]) for job in its_jobs if job.id in counts)
        all_rows.append(
            BuildRows(
                source,
                change,
                build,
                tuple(runs[build.id]),
                tuple(tags_by_build[build.id]),
                tuple(decisions[build.id]),
                tuple(its_jobs),
                its_counts,
            )
        )
    return all_rows


def _heads(
    connection: Connection, builds: Collection[int]
) -> Sequence[tuple[str, model.Change, model.Build]]:
    """Return name of the source, change and build of some builds."""
    change_columns, build_columns = _CHANGE.keys(), _BUILD.keys()
    end = 1 + len(change_columns)
    heads = []
    for chunk in row_mapping.split_into_parameters(sorted(builds)):
        for row in connection.execute(_HEADS, {"builds": chunk}):
            change = model.Change(**dict(zip(change_columns, row[1:end], strict=True)))
            build = row_mapping.build_from_columns(dict(zip(build_columns, row[end:], strict=True)))
            heads.append((row[0], change, build))
    return heads


def _by_build(
    connection: Connection, builds: Collection[int], statement: Any, make: Callable[[Any], T]
) -> dict[int, list[T]]:
    values: dict[int, list[T]] = defaultdict(list)
    for chunk in row_mapping.split_into_parameters(sorted(builds)):
        for row in connection.execute(statement, {"builds": chunk}):
            values[row.build].append(make(row))
    return values


def audited_builds(connection: Connection, after: int) -> tuple[int, set[int]]:
    """Return the id of the newest audit entry, and the builds of all entries later than ``after``.

    An action on a build that cannot change by itself (a tag is revoked, a stage is approved) writes
    an entry in the same transaction.
    """
    last = connection.execute(_LAST_AUDIT).scalar() or 0
    if last <= after:
        return after, set()
    return last, set(connection.execute(_AUDITED, {"after": after}).scalars())


def hosts_of_builds(connection: Connection, builds: Collection[int]) -> dict[int, set[str]]:
    """Return, by build, the hosts that have had a job of it: they hold its contents."""
    hosts: dict[int, set[str]] = defaultdict(set)
    for chunk in row_mapping.split_into_parameters(sorted(builds)):
        for build, host in connection.execute(_HOSTS, {"builds": chunk}):
            hosts[build].add(host)
    return hosts


def kept_trees(connection: Connection, newest: int) -> set[tuple[str, str]]:
    """Return source and revision of the trees that have to stay.

    These are the trees of builds that can still change, of the ``newest`` builds, and of all
    directories whose results are kept: a directory's tree could not be made again.
    """
    joined = tables.build.join(tables.change, _CHANGE.id == _BUILD.change).join(
        tables.source, _SOURCE.id == _CHANGE.source
    )
    chosen = select(_SOURCE.name, _CHANGE.revision).select_from(joined)
    latest = chosen.order_by(_BUILD.id.desc()).limit(newest)
    kept = chosen.where(_SOURCE.kind == "directory", _BUILD.removed_at.is_(None))
    trees = {(row[0], row[1]) for row in connection.execute(latest)}
    trees |= {(row[0], row[1]) for row in connection.execute(kept)}
    for chunk in row_mapping.split_into_parameters(list_active_ids(connection)):
        open_builds = connection.execute(chosen.where(_BUILD.id.in_(chunk)))
        trees |= {(row[0], row[1]) for row in open_builds}
    return trees
