"""Bring a database to the schema of this program, or say why not.

Owns the order of the schemas and the copy that is made before one is changed.  Must not know
what the tables mean.  A new database is created from ``tables.py`` and stamped with the newest
revision; a test asserts that the migrations create the same.  So Alembic, which takes long to
load, is imported only to change an older database.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect

from .engine import StoreError, begin, name_of, named
from .tables import METADATA

#: Every schema that there has been, oldest first: the revisions in ``migrations/versions``.
REVISIONS = ("0001",)
FOLDER = Path(__file__).parent / "migrations"
_VERSION = """
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)
"""


def migrate(engine: Engine, target: str = REVISIONS[-1]) -> Path | None:
    """Bring it to ``target``; the copy of the file as it was before, if one was made.

    All in one transaction: after a crash the schema is the old one or the new one.
    """
    with named(engine):
        return _migrate(engine, target)


def _migrate(engine: Engine, target: str) -> Path | None:
    with engine.connect() as connection:
        found = _revision(engine, connection)
    if found == target:
        return None
    copy = _copy(engine, found) if found else None
    with engine.connect() as connection:
        connection.detach()  # its pragmas are not those of the others: it is closed afterwards
        with connection.begin():
            begin(connection, writes=True, rebuilds=True)
            # Somebody else may have been faster, while we waited for the file.
            found = _revision(engine, connection)
            if not found and target == REVISIONS[-1]:
                _make(connection, target)
            elif found != target:
                upgrade(connection, target)
                _check(engine, connection)
    return copy


def _make(connection: Connection, revision: str) -> None:
    """All tables, and Alembic's own, as it would have made them."""
    METADATA.create_all(connection)
    connection.exec_driver_sql(_VERSION)
    connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{revision}')")


def _revision(engine: Engine, connection: Connection) -> str:
    """The schema of the database; empty: none yet."""
    tables = inspect(connection).get_table_names()
    if "alembic_version" not in tables:
        if tables:
            raise StoreError(
                f"database {name_of(engine)} is not a dispatcher's: it has the table {tables[0]!r}"
                "\n  try: another file"
            )
        return ""
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    found = str(row[0]) if row else ""
    if found and found not in REVISIONS:
        raise StoreError(
            f"database {name_of(engine)} has schema {found}, which is newer than "
            f"{REVISIONS[-1]}, the newest that this nosejobs knows"
            "\n  try: the nosejobs that wrote it, or the copy that it made beside it"
        )
    return found


def _copy(engine: Engine, revision: str) -> Path | None:
    """A consistent copy beside the file, named after its schema."""
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
            f"database {name_of(engine)} has an older schema, but cannot be copied to "
            f"{path} first: {error}"
        ) from error
    return path


def upgrade(connection: Connection, target: str) -> None:
    """All migrations up to ``target``, in the transaction of ``connection``."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", os.fspath(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def _check(engine: Engine, connection: Connection) -> None:
    """No row refers to one that a migration has lost."""
    if engine.dialect.name == "sqlite":
        row = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if row:
            raise StoreError(
                f"database {name_of(engine)}: the migration would break rows of {row[0]}"
            )
