"""Tests of the query plan of each statement: ten thousand jobs make none of them slow."""

import sqlite3
from collections.abc import Iterator

import pytest

from shell_runner.remote.jobs import sql
from shell_runner.remote.jobs.queue import Queue

ALL = {name: text for name, text in vars(sql).items() if name.isupper() and name[0] != "_"}
#: Statements that scan a table, and what they scan; the comment says why that is acceptable.
SCANS = {
    "JOBS": "SCAN job",  # newest first, until enough are found
    "COUNTS": "SCAN job USING COVERING INDEX",  # the index alone
    "HAS_RECENT_REFERENCE": "SCAN",  # the last hundred
    "CONTENTS": "SCAN job",  # when contents are swept
    "NEXT_DUE": "SEARCH outbox USING COVERING INDEX outbox_due",  # its first entry
    "OUTBOX_OF_JOB": "SCAN outbox",  # few: those that were not told yet
    "HAS_OUTBOX": "SCAN outbox",  # its first entry
    "DUE_NOTIFICATIONS": "SCAN (subquery",  # what the subqueries found
    "WORKER": "SCAN worker",  # one row
    "DELETE_WORKER": "SCAN worker",
}
#: Statements that sort their rows, which are few.
SORTED = {"CONTENTS", "OUTCOMES"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    folder = tmp_path_factory.mktemp("queue")
    with Queue(str(folder)):
        pass
    connection = sqlite3.connect(folder / "queue.db")
    yield connection
    connection.close()


def explain(database: sqlite3.Connection, statement: str) -> list[str]:
    values = (1,) * (1 if "?1" in statement else statement.count("?"))
    steps = database.execute(f"EXPLAIN QUERY PLAN {statement}", values)
    return [step for *_, step in steps]


@pytest.mark.parametrize("name", ALL)
def test_a_statement_reads_what_it_needs_and_no_more(
    database: sqlite3.Connection, name: str
) -> None:
    steps = explain(database, ALL[name])
    # "SCAN TABLE job" before SQLite 3.36.
    scans = [step.replace(" TABLE", "") for step in steps if step.startswith("SCAN")]
    allowed = SCANS.get(name, "SEARCH")
    scans = [step for step in scans if step != "SCAN CONSTANT ROW"]
    assert all(step.startswith(allowed) for step in scans), steps
    assert name in SORTED or not any("TEMP B-TREE" in step for step in steps), steps


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("NEXT_JOB", "INDEX job_waiting (state=?)"),
        ("AHEAD_BY_NUMBER", "COVERING INDEX job_waiting"),
        ("AHEAD_BY_PRIORITY", "COVERING INDEX job_waiting"),
        ("COUNT_IN_STATE", "COVERING INDEX"),
        ("BYTES_IN_STATE", "COVERING INDEX job_listed"),
        ("SIZES_IN_STATE", "COVERING INDEX job_listed"),
        ("JOBS_IN_STATE", "INDEX job_listed (state=? AND number<?)"),
        ("DUE_NOTIFICATIONS", "COMPOUND QUERY"),
        ("JOBS_BY_PREFIX", "(id>? AND id<?)"),
        ("EXECUTIONS", "(attempt=? AND (test,test_attempt)>(?,?))"),
    ],
)
def test_the_frequent_ones_use_the_index_made_for_them(
    database: sqlite3.Connection, name: str, index: str
) -> None:
    assert index in explain(database, ALL[name])[0]


def test_rows_deleted_with_a_job_are_found_by_an_index(database: sqlite3.Connection) -> None:
    references = [
        (table, row[3])
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for row in database.execute(f"PRAGMA foreign_key_list({table})")
    ]
    assert len(references) == 3
    for table, column in references:
        (step,) = explain(database, f"SELECT 1 FROM {table} WHERE {column} = ?")
        assert step.startswith("SEARCH"), step
