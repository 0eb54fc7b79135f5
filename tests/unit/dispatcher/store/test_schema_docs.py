"""Tests of the page about the schema: it has all tables and columns, and a valid query."""

import re
from pathlib import Path

from dispatcher.store import Store, schema_docs
from dispatcher.store.tables import METADATA

DOCUMENT = Path(__file__).parents[4] / "docs" / "dispatcher-schema.md"


def test_the_document_is_made_of_the_tables() -> None:
    assert DOCUMENT.read_text() == schema_docs.render()


def test_every_table_and_column_has_a_comment() -> None:
    assert all(table.comment for table in METADATA.tables.values())
    columns = [column for table in METADATA.tables.values() for column in table.columns]
    assert [str(column) for column in columns if not column.comment] == []


def test_the_query_of_the_document_works(store: Store) -> None:
    (query,) = re.findall(r"(?:^    .*\n)+", DOCUMENT.read_text(), re.MULTILINE)
    with store.read() as connection:
        assert connection.exec_driver_sql(query).all() == []
