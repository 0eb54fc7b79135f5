"""What faces show: builds with their stages, tags and numbers, in a bounded number of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, select

from .. import model
from . import audit, jobs, results, statements, tables, tags

_SOURCE, _CHANGE, _BUILD = tables.source.c, tables.change.c, tables.build.c
_RUN = tables.stage_run.c


@dataclass(frozen=True)
class BuildView:
    """A build as a list shows it."""

    source: str
    change: model.Change
    build: model.Build
    #: All goes at all stages, in the order in which they were added.
    runs: tuple[model.StageRun, ...] = ()
    #: Those that count.
    tags: tuple[model.Tag, ...] = ()


@dataclass(frozen=True)
class BuildDetail:
    """A build as its own page shows it."""

    view: BuildView
    jobs: tuple[model.Job, ...]
    #: By job.
    counts: dict[str, model.OutcomeCounts]
    #: Revoked ones too.
    tags: tuple[model.Tag, ...]
    decisions: tuple[model.Decision, ...]
    #: Newest first.
    audit: tuple[audit.Entry, ...]


@dataclass(frozen=True)
class Filter:
    """Which builds; what is None does not matter."""

    source: str | None = None
    branch: str | None = None
    level: str | None = None
    state: model.BuildState | None = None
    #: A revision, or how it begins.
    revision: str | None = None
    #: Older than the build of this number: for the next page.
    before: int | None = None


def builds(connection: Connection, wanted: Filter = Filter(), most: int = 50) -> list[BuildView]:
    """Newest first: three queries, however many builds there are."""
    found = connection.execute(_filtered(wanted).order_by(_BUILD.id.desc()).limit(most)).all()
    return _views(connection, found)


def build(connection: Connection, number: int) -> BuildDetail | None:
    """All of one build, but for its results: eight queries."""
    found = connection.execute(_select().where(_BUILD.id == number)).all()
    if not found:
        return None
    (view,) = _views(connection, found)
    its_jobs = jobs.of_runs(connection, [run.id for run in view.runs])
    return BuildDetail(
        view=view,
        jobs=tuple(its_jobs),
        counts=results.counts(connection, [job.id for job in its_jobs]),
        tags=tuple(tags.of_build(connection, number)),
        decisions=tuple(tags.decisions_of(connection, number)),
        audit=tuple(audit.entries(connection, build=number)),
    )


def _select() -> Select[Any]:
    """Source, change and build; the columns of each under its own name."""
    columns = [_SOURCE.name.label("source_name")]
    columns += [column.label(f"change_{column.name}") for column in _CHANGE]
    columns += [column.label(f"build_{column.name}") for column in _BUILD]
    return select(*columns).select_from(
        tables.build.join(tables.change, _CHANGE.id == _BUILD.change).join(
            tables.source, _SOURCE.id == _CHANGE.source
        )
    )


def _filtered(wanted: Filter) -> Select[Any]:
    conditions = {
        "source": _SOURCE.name == wanted.source,
        "branch": _CHANGE.branch == wanted.branch,
        "level": _BUILD.level == wanted.level,
        "state": _BUILD.state == (wanted.state and wanted.state.value),
        "revision": _CHANGE.revision.startswith(wanted.revision or "", autoescape=True),
        "before": _BUILD.id < (wanted.before or 0),
    }
    given = [name for name in conditions if getattr(wanted, name) is not None]
    return _select().where(*(conditions[name] for name in given))


def _views(connection: Connection, found: Sequence[Any]) -> list[BuildView]:
    numbers = [row.build_id for row in found]
    runs, given = defaultdict(list), defaultdict(list)
    for run in _runs(connection, numbers):
        runs[run.build].append(run)
    for tag in tags.of_builds(connection, numbers):
        if tag.valid:
            given[tag.build].append(tag)
    return [
        BuildView(
            source=row.source_name,
            change=model.Change(**_part(row, "change_")),
            build=statements.build_of(_part(row, "build_")),
            runs=tuple(runs[row.build_id]),
            tags=tuple(given[row.build_id]),
        )
        for row in found
    ]


def _runs(connection: Connection, numbers: Iterable[int]) -> Iterable[model.StageRun]:
    for chunk in statements.chunks(numbers):
        statement = select(tables.stage_run).where(_RUN.build.in_(chunk)).order_by(_RUN.id)
        yield from map(statements.stage_run, connection.execute(statement))


def _part(row: Any, prefix: str) -> dict[str, Any]:
    fields = row._mapping
    return {name.removeprefix(prefix): fields[name] for name in fields if name.startswith(prefix)}
