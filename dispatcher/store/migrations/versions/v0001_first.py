"""The first schema: every table of ``tables.py``, created from its definition.

There is one definition of the schema until a second revision exists.  Before you add revision 0002,
write the tables of 0001 out here, because ``tables.py`` describes the newest schema only.
"""

from alembic import op

from dispatcher.store.tables import METADATA

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create all tables and indexes."""
    METADATA.create_all(op.get_bind(), checkfirst=False)
