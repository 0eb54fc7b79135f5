"""Migration of a database to the schema of this version.

This module owns the order of the schema revisions, and the copy made before a migration.  It must
not depend on the meaning of tables.  A new database is created from ``tables.py`` and stamped with
the newest revision; a test asserts that the migrations create the same schema.  Therefore Alembic,
which is slow to import, is imported only to migrate an older database.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect

from .engine import StoreError, begin_transaction, describe_location, translate_errors
from .tables import METADATA

#: All schema revisions, oldest first: the files in ``migrations/versions``.
REVISIONS = ("0001", "0002")
FOLDER = Path(__file__).parent / "migrations"
_CREATE_VERSION_TABLE = """
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)
"""


def migrate(engine: Engine, target: str = REVISIONS[-1]) -> Path | None:
    """Migrate a database to the revision ``target``, in one transaction.

    Return the path of the copy that was made before, if any.  Raises ``StoreError`` if the database
    has a newer schema, belongs to another program, or cannot be copied or written.
    """
    with translate_errors(engine):
        return _migrate(engine, target)


def _migrate(engine: Engine, target: str) -> Path | None:
    with engine.connect() as connection:
        revision = _read_revision(engine, connection)
    if revision == target:
        return None
    copy = _copy_database(engine, revision) if revision else None
    with engine.connect() as connection:
        connection.detach()  # closed afterwards, because its pragmas differ from the other ones
        with connection.begin():
            begin_transaction(connection, writes=True, rebuilds=True)
            # Another process may have migrated the database while this one waited for the lock.
            revision = _read_revision(engine, connection)
            if not revision and target == REVISIONS[-1]:
                _create_schema(connection, target)
            elif revision != target:
                upgrade(connection, target)
                _check_references(engine, connection)
    return copy


def _create_schema(connection: Connection, revision: str) -> None:
    """Create all tables, and that of Alembic as Alembic itself would create it."""
    METADATA.create_all(connection)
    connection.exec_driver_sql(_CREATE_VERSION_TABLE)
    connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{revision}')")


def _read_revision(engine: Engine, connection: Connection) -> str:
    """Return the schema revision of the database; empty: it has no tables yet."""
    tables = inspect(connection).get_table_names()
    if "alembic_version" not in tables:
        if tables:
            raise StoreError(
                f"database {describe_location(engine)} does not belong to a dispatcher: "
                f"it has a table {tables[0]!r}\n  try: another file"
            )
        return ""
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    revision = str(row[0]) if row else ""
    if revision and revision not in REVISIONS:
        raise StoreError(
            f"database {describe_location(engine)} has schema {revision}, which is newer than "
            f"{REVISIONS[-1]}, the newest schema that this version of nosejobs supports"
            "\n  try: a newer nosejobs, or the copy of the database from before the migration"
        )
    return revision


def _copy_database(engine: Engine, revision: str) -> Path | None:
    """Copy the database to a file beside it that is named after its schema revision."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    path = Path(f"{engine.url.database}.schema-{revision}")
    part = Path(f"{path}.part-{os.getpid()}")
    try:
        with (
            closing(sqlite3.connect(engine.url.database)) as old,
            closing(sqlite3.connect(part)) as new,
        ):
            os.chmod(part, 0o600)
            old.backup(new)
        os.replace(part, path)
    except (OSError, sqlite3.Error) as error:
        part.unlink(missing_ok=True)
        raise StoreError(
            f"database {describe_location(engine)} has an older schema, but cannot be copied to "
            f"{path} first: {error}"
        ) from error
    return path


def upgrade(connection: Connection, target: str) -> None:
    """Run all migrations up to ``target``, in the transaction of ``connection``."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", os.fspath(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def _check_references(engine: Engine, connection: Connection) -> None:
    """Check that each reference points to a row that exists."""
    if engine.dialect.name == "sqlite":
        row = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if row:
            raise StoreError(
                f"database {describe_location(engine)}: the migration would break rows of {row[0]}"
            )
