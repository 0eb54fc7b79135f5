"""The reasons why earlier attempts of a test failed."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; the tests of older packages have no reasons."""
    comment = "why earlier attempts failed, a line for each; empty: it ran once"
    column = sa.Column(
        "earlier_failures", sa.Text(), nullable=False, server_default="", comment=comment
    )
    op.add_column("result", column)
