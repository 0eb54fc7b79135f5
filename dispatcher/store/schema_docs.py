"""Generator of docs/dispatcher-schema.md from the tables and their comments.

Usage: python -m dispatcher.store.schema_docs > docs/dispatcher-schema.md
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Column, Table, UniqueConstraint

from .. import model
from .tables import METADATA

_INTRODUCTION = """\
# The dispatcher's database

The dispatcher's database is one SQLite file, `dispatcher.db`, in the dispatcher's data directory.
You can read it at any time with `sqlite3 'file:dispatcher.db?mode=ro'` or any other program:
readers do not block the dispatcher. Write only through the API.

- Timestamps (`*_at`) are seconds since the epoch.
- JSON columns hold values that only the dispatcher reads.
- Bytes of text that are not UTF-8 (file names, output) are written as `\\xff`, NUL as `\\x00`.
- Results count if their job is `harvested` or `acknowledged`. Those of a `lost` job are kept for
  information only.
- The schema changes by migrations only. Before a migration the file is copied to
  `dispatcher.db.schema-REVISION`.

This page is generated from `dispatcher/store/tables.py` by
`python -m dispatcher.store.schema_docs`; a test compares the two.

For example, the tests that failed in the last ten builds:

    SELECT stage_run.build, stage_run.stage, job.host, result.nodeid, result.message
    FROM result JOIN job ON job.id = result.job JOIN stage_run ON stage_run.id = job.stage_run
    WHERE result.outcome IN ('failed', 'error') AND job.state IN ('harvested', 'acknowledged')
      AND stage_run.build > (SELECT max(id) - 10 FROM build)
    ORDER BY stage_run.build, result.nodeid;
"""


def render() -> str:
    """Return the whole page."""
    return "\n".join(
        [
            _INTRODUCTION,
            *(line for table in METADATA.tables.values() for line in _render_table(table)),
        ]
    )


def _render_table(table: Table) -> Iterator[str]:
    yield f"## {table.name}"
    yield ""
    yield f"{table.comment}"
    yield ""
    yield "| column | type | |"
    yield "|---|---|---|"
    for column in table.columns:
        yield f"| {column.name} | {_describe_type(column)} | {_describe_column(column)} |"
    yield ""
    unique = [each for each in table.constraints if isinstance(each, UniqueConstraint)]
    for columns in sorted(", ".join(column.name for column in each.columns) for each in unique):
        yield f"Unique: {columns}."
        yield ""


def _describe_column(column: Column[object]) -> str:
    """Return the comment of a column; for an enumeration of ``model``, its values."""
    comment = column.comment or ""
    if not comment.startswith("model."):
        return comment
    return ", ".join(getattr(model, comment.removeprefix("model.")))


def _describe_type(column: Column[object]) -> str:
    """Return the type of a column: whether it is a key, a reference, or can be null."""
    parts = [str(column.type).lower()]
    if column.primary_key:
        parts.append("key")
    parts += [f"of {key.target_fullname}" for key in column.foreign_keys]
    if column.nullable:
        parts.append("or null")
    return ", ".join(parts)


if __name__ == "__main__":
    print(render(), end="")
