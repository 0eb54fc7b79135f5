"""The schema for people: docs/dispatcher-schema.md, made of the tables and their comments.

python -m dispatcher.store.describe > docs/dispatcher-schema.md
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Column, Table, UniqueConstraint

from .. import model
from .tables import METADATA

_HEAD = """\
# The dispatcher's database

Made of `dispatcher/store/tables.py` by `python -m dispatcher.store.describe`; a test compares.

One SQLite file below the dispatcher's data folder. Read it whenever you like, with
`sqlite3 'file:dispatcher.db?mode=ro'` or anything else: readers do not disturb. Write to it through
the API only. Dates are seconds since the epoch; JSON columns hold what only the dispatcher reads.
Text that is no UTF-8 (file names, output) stands as `\\xff`, NUL as `\\x00`.

Results count if their job is `harvested` or `acknowledged`; those of a job that is `lost` are
evidence. The schema only grows by migrations; before one, the file is copied to
`dispatcher.db.schema-REVISION`.

What failed in the last ten builds:

    SELECT stage_run.build, stage_run.stage, job.host, result.nodeid, result.words
    FROM result JOIN job ON job.id = result.job JOIN stage_run ON stage_run.id = job.stage_run
    WHERE result.outcome IN ('failed', 'error') AND job.state IN ('harvested', 'acknowledged')
      AND stage_run.build > (SELECT max(id) - 10 FROM build)
    ORDER BY stage_run.build, result.nodeid;
"""


def document() -> str:
    """All of the file."""
    return "\n".join(
        [_HEAD, *(line for table in METADATA.tables.values() for line in _table(table))]
    )


def _table(table: Table) -> Iterator[str]:
    yield f"## {table.name}"
    yield ""
    yield f"{table.comment}"
    yield ""
    yield "| column | type | |"
    yield "|---|---|---|"
    for column in table.columns:
        yield f"| {column.name} | {_type(column)} | {_words(column)} |"
    yield ""
    unique = [each for each in table.constraints if isinstance(each, UniqueConstraint)]
    for columns in sorted(", ".join(column.name for column in each.columns) for each in unique):
        yield f"Unique: {columns}."
        yield ""


def _words(column: Column[object]) -> str:
    """Its comment; for a state of ``model`` all that it can be."""
    words = column.comment or ""
    if not words.startswith("model."):
        return words
    return ", ".join(getattr(model, words.removeprefix("model.")))


def _type(column: Column[object]) -> str:
    """Type, key, reference, whether it can be missing."""
    words = [str(column.type).lower()]
    if column.primary_key:
        words.append("key")
    words += [f"of {key.target_fullname}" for key in column.foreign_keys]
    if column.nullable:
        words.append("or null")
    return ", ".join(words)


if __name__ == "__main__":
    print(document(), end="")
