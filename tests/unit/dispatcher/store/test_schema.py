"""Tests of the schema: the migrations create exactly the tables of the code."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from dispatcher.store import StoreError, migrate, open_engine, schema
from dispatcher.store.schema import FOLDER, REVISIONS
from dispatcher.store.tables import METADATA


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_engine(tmp_path / "dispatcher.db")
    yield opened
    opened.dispose()


def statements(engine: Engine) -> dict[str, Any]:
    """Return the SQL of each table and index, with its clauses sorted."""
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master").all()
    return {name: sorted(re.split(r",?\s+", sql or "")) for name, sql in rows}


def version(engine: Engine) -> list[Any]:
    """Return the rows of Alembic's own table."""
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT version_num FROM alembic_version").all()
    return [tuple(row) for row in rows]


@pytest.fixture
def migrated(tmp_path: Path) -> Iterator[Engine]:
    """Return an empty database after all migrations."""
    opened = open_engine(tmp_path / "migrated.db")
    with opened.begin() as connection:
        schema.upgrade(connection, REVISIONS[-1])
    yield opened
    opened.dispose()


def test_a_new_database_is_what_all_migrations_make(engine: Engine, migrated: Engine) -> None:
    migrate(engine)
    assert statements(engine) == statements(migrated)
    assert version(engine) == version(migrated) == [(REVISIONS[-1],)]
    assert schema.migrate(migrated) is None


def test_alembic_sees_no_difference(migrated: Engine) -> None:
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_every_migration_is_known_in_its_order() -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    scripts = ScriptDirectory.from_config(config)
    rows = [each.revision for each in scripts.walk_revisions()]
    assert tuple(reversed(rows)) == REVISIONS


def test_a_second_start_does_nothing(engine: Engine, tmp_path: Path) -> None:
    assert migrate(engine) is None
    before = statements(engine)
    assert migrate(engine) is None
    assert statements(engine) == before
    assert not list(tmp_path.glob("*.schema-*"))


def test_a_newer_schema_is_refused_by_name(engine: Engine) -> None:
    migrate(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")
    before = statements(engine)
    with pytest.raises(StoreError, match=rf"schema 0999, which is newer than {REVISIONS[-1]}"):
        migrate(engine)
    assert statements(engine) == before


def test_a_database_of_another_program_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(
        StoreError, match="does not belong to a dispatcher: it has a table 'recipes'"
    ):
        migrate(engine)


def test_results_of_the_first_schema_get_no_reasons(engine: Engine) -> None:
    def columns() -> set[Any]:
        with engine.connect() as connection:
            rows = connection.exec_driver_sql("PRAGMA table_info(result)")
            return {row[1] for row in rows}

    migrate(engine, "0001")
    assert "earlier_failures" not in columns()
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO source (id, name, kind) VALUES (1, 'a', 'git')")
    assert migrate(engine, REVISIONS[-1]) is not None
    assert "earlier_failures" in columns()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT name FROM source").scalar() == "a"


SECOND = """
from alembic import op
import sqlalchemy as sa
revision, down_revision = "0002", "0001"
def upgrade():
    with op.batch_alter_table("source", recreate="always") as batch:
        batch.add_column(sa.Column("color", sa.Text(), server_default="grey"))
"""


@pytest.fixture
def second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Add a migration that replaces a table to which others refer."""
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    for name in ("env.py", "versions/v0001_first.py"):
        (folder / name).write_text((FOLDER / name).read_text())
    (folder / "versions" / "v0002_second.py").write_text(SECOND)
    monkeypatch.setattr(schema, "FOLDER", folder)
    monkeypatch.setattr(schema, "REVISIONS", ("0001", "0002"))
    return folder


def test_an_older_schema_is_copied_then_changed(
    engine: Engine, tmp_path: Path, second: Path
) -> None:
    migrate(engine, "0001")
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO source (id, name, kind) VALUES (1, 'a', 'git')")
        connection.exec_driver_sql("INSERT INTO head VALUES (1, 'main', 'abc')")
    copy = migrate(engine, "0002")
    assert copy == tmp_path / "dispatcher.db.schema-0001"
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT color FROM source").scalar() == "grey"
        assert connection.exec_driver_sql("SELECT revision FROM head").scalar() == "abc"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    with closing(sqlite3.connect(copy)) as old:
        assert old.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
        assert old.execute("SELECT revision FROM head").fetchone() == ("abc",)


@pytest.mark.parametrize(
    "failing_statement", ['raise RuntimeError("half way")', 'op.execute("DELETE FROM source")']
)
def test_a_migration_that_fails_leaves_the_old_schema(
    engine: Engine, second: Path, failing_statement: str
) -> None:
    migrate(engine, "0001")
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO source (id, name, kind) VALUES (1, 'a', 'git')")
        connection.exec_driver_sql("INSERT INTO head VALUES (1, 'main', 'abc')")
    before = statements(engine)
    (second / "versions" / "v0002_second.py").write_text(f"{SECOND}    {failing_statement}\n")
    with pytest.raises((RuntimeError, StoreError), match=r"half way|rows of head"):
        migrate(engine, "0002")
    assert statements(engine) == before
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM source").scalar() == 1


def test_without_a_copy_nothing_is_changed(engine: Engine, tmp_path: Path, second: Path) -> None:
    migrate(engine, "0001")
    before = statements(engine)
    (tmp_path / "dispatcher.db.schema-0001").mkdir()
    with pytest.raises(StoreError, match="cannot be copied"):
        migrate(engine, "0002")
    assert statements(engine) == before
    assert not list(tmp_path.glob("*.part-*"))
