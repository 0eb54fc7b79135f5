"""Alembic's environment: runs the migrations in the transaction of ``schema.migrate``."""

from alembic import context

from dispatcher.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
