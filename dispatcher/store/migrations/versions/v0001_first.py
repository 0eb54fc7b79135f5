"""The first schema: every table of ``tables.py``, without what later revisions add.

There is one definition of the schema, ``tables.py``.  A revision that adds a column to a table is
listed here.
"""

from alembic import op

from dispatcher.store.tables import METADATA

revision = "0001"
down_revision = None

#: Columns that later revisions add: table and column.
_ADDED_LATER = (("result", "earlier_failures"),)


def upgrade() -> None:
    """Create all tables and indexes."""
    METADATA.create_all(op.get_bind(), checkfirst=False)
    for table, column in _ADDED_LATER:
        op.drop_column(table, column)
