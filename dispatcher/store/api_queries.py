"""Builds with their stages, tags and counts for the API, in a bounded number of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, select

from .. import model
from . import audit, jobs, results, row_mapping, tables, tags

_SOURCE, _CHANGE, _BUILD = tables.source.c, tables.change.c, tables.build.c
_RUN = tables.stage_run.c


@dataclass(frozen=True)
class BuildView:
    """A build with the fields of a list."""

    source: str
    change: model.Change
    build: model.Build
    #: All runs of all stages, in the order of their creation.
    runs: tuple[model.StageRun, ...] = ()
    #: Valid tags only.
    tags: tuple[model.Tag, ...] = ()


@dataclass(frozen=True)
class BuildDetail:
    """A build with the fields of its own page."""

    view: BuildView
    jobs: tuple[model.Job, ...]
    #: By job id.
    counts: dict[str, model.OutcomeCounts]
    #: All tags, including revoked ones.
    tags: tuple[model.Tag, ...]
    decisions: tuple[model.Decision, ...]
    #: Newest first.
    audit: tuple[audit.AuditEntry, ...]


@dataclass(frozen=True)
class BuildFilter:
    """Conditions that a build must satisfy; None: no condition."""

    source: str | None = None
    branch: str | None = None
    level: str | None = None
    state: model.BuildState | None = None
    #: A revision, or its first characters.
    revision: str | None = None
    #: Builds with a lower id only, for the next page.
    before: int | None = None


def list_builds(
    connection: Connection, conditions: BuildFilter = BuildFilter(), limit: int = 50
) -> list[BuildView]:
    """Return the newest matching builds, newest first, in three queries."""
    rows = connection.execute(
        _select_matching(conditions).order_by(_BUILD.id.desc()).limit(limit)
    ).all()
    return _build_views(connection, rows)


def list_newest_configs(connection: Connection, limit: int) -> list[Any]:
    """Return the configs of the newest builds that have one, as JSON values."""
    statement = select(_BUILD.config).where(_BUILD.config.is_not(None))
    rows = connection.execute(statement.order_by(_BUILD.id.desc()).limit(limit))
    return [config for config in rows.scalars() if config]


def list_used_levels(connection: Connection) -> list[str]:
    """Return the levels that builds have."""
    return sorted(connection.execute(select(_BUILD.level).distinct()).scalars())


def get_build_detail(connection: Connection, number: int) -> BuildDetail | None:
    """Return a build with all its rows but results, in eight queries; None if there is none."""
    rows = connection.execute(_select_builds().where(_BUILD.id == number)).all()
    if not rows:
        return None
    (view,) = _build_views(connection, rows)
    its_jobs = jobs.list_by_runs(connection, [run.id for run in view.runs])
    return BuildDetail(
        view=view,
        jobs=tuple(its_jobs),
        counts=results.count_outcomes(connection, [job.id for job in its_jobs]),
        tags=tuple(tags.list_by_build(connection, number)),
        decisions=tuple(tags.list_decisions(connection, number)),
        audit=tuple(audit.list_entries(connection, build=number)),
    )


def _select_builds() -> Select[Any]:
    """Select source, change and build, with the table's name before each column's name."""
    columns = [_SOURCE.name.label("source_name")]
    columns += [column.label(f"change_{column.name}") for column in _CHANGE]
    columns += [column.label(f"build_{column.name}") for column in _BUILD]
    return select(*columns).select_from(
        tables.build.join(tables.change, _CHANGE.id == _BUILD.change).join(
            tables.source, _SOURCE.id == _CHANGE.source
        )
    )


def _select_matching(conditions: BuildFilter) -> Select[Any]:
    expressions = {
        "source": _SOURCE.name == conditions.source,
        "branch": _CHANGE.branch == conditions.branch,
        "level": _BUILD.level == conditions.level,
        "state": _BUILD.state == (conditions.state and conditions.state.value),
        "revision": _CHANGE.revision.startswith(conditions.revision or "", autoescape=True),
        "before": _BUILD.id < (conditions.before or 0),
    }
    set_names = [name for name in expressions if getattr(conditions, name) is not None]
    return _select_builds().where(*(expressions[name] for name in set_names))


def _build_views(connection: Connection, rows: Sequence[Any]) -> list[BuildView]:
    numbers = [row.build_id for row in rows]
    runs, valid_tags = defaultdict(list), defaultdict(list)
    for run in _list_runs(connection, numbers):
        runs[run.build].append(run)
    for tag in tags.list_by_builds(connection, numbers):
        if tag.is_valid:
            valid_tags[tag.build].append(tag)
    return [
        BuildView(
            source=row.source_name,
            change=model.Change(**_columns_with_prefix(row, "change_")),
            build=row_mapping.build_from_columns(_columns_with_prefix(row, "build_")),
            runs=tuple(runs[row.build_id]),
            tags=tuple(valid_tags[row.build_id]),
        )
        for row in rows
    ]


def _list_runs(connection: Connection, numbers: Iterable[int]) -> Iterable[model.StageRun]:
    for chunk in row_mapping.split_into_parameters(numbers):
        statement = select(tables.stage_run).where(_RUN.build.in_(chunk)).order_by(_RUN.id)
        yield from map(row_mapping.stage_run_from_row, connection.execute(statement))


def _columns_with_prefix(row: Any, prefix: str) -> dict[str, Any]:
    fields = row._mapping
    return {name.removeprefix(prefix): fields[name] for name in fields if name.startswith(prefix)}
