"""Tests of transactions: atomic, one writer at a time, and waiting threads are woken."""

import os
import sqlite3
import stat
import threading
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from dispatcher.model import StageRun
from dispatcher.store import (
    Store,
    StoreError,
    audit,
    key_values,
    open_engine,
    open_store,
    stage_runs,
)
from dispatcher.store.engine import ChangeSignal

from ..row_factories import add_build


def test_a_write_is_all_or_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.write() as connection:  # noqa: PT012
        key_values.put(connection, "a", b"1")
        raise ZeroDivisionError
    with store.read() as connection:
        assert key_values.get(connection, "a") is None


def test_a_reader_sees_a_snapshot(store: Store) -> None:
    with store.write() as connection:
        key_values.put(connection, "a", b"1")
    with store.read() as reader:
        assert key_values.get(reader, "a") == b"1"
        with store.write() as writer:
            key_values.put(writer, "a", b"2")
        assert key_values.get(reader, "a") == b"1"


def test_rows_refer_to_rows_that_exist(store: Store) -> None:
    with pytest.raises(IntegrityError), store.write() as connection:
        connection.exec_driver_sql("INSERT INTO head VALUES (99, 'main', 'abc')")


@pytest.mark.parametrize(
    ("pragma", "value"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 30_000)],
)
def test_connections_are_safe(store: Store, pragma: str, value: object) -> None:
    with store.read() as connection:
        assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


def test_a_write_wakes_waiting_threads(store: Store) -> None:
    count, woken = store.changed.count(), threading.Event()

    def wait() -> None:
        if store.changed.wait(count, 20) > count:
            woken.set()

    waiters = [threading.Thread(target=wait) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    with store.write() as connection:
        key_values.put(connection, "a", b"1")
        assert store.changed.count() == count  # not before the commit
    for waiter in waiters:
        waiter.join(20)
    assert woken.is_set()
    assert store.changed.count() == count + 1


def test_a_write_before_the_wait_is_not_missed(store: Store) -> None:
    count = store.changed.count()
    with store.write() as connection:
        key_values.put(connection, "a", b"1")
    assert store.changed.wait(count, 0) == count + 1


def test_an_insert_that_returns_its_id_wakes_too(store: Store) -> None:
    with store.write() as connection:
        build = add_build(connection)
    count = store.changed.count()
    with store.write() as connection:
        assert stage_runs.add(connection, StageRun(0, build, "unit"))
    assert store.changed.count() == count + 1
    with store.write() as connection:
        assert stage_runs.add(connection, StageRun(0, build, "unit")) is None
    assert store.changed.count() == count + 1


def test_a_write_that_changes_nothing_wakes_nobody(store: Store) -> None:
    count = store.changed.count()
    with store.write() as connection:
        assert not stage_runs.update_fields(connection, 99, detail="no such run")
    with store.write(quiet=True) as connection:
        key_values.put(connection, "beat", b"1")
    with pytest.raises(ZeroDivisionError), store.write() as connection:  # noqa: PT012
        key_values.put(connection, "a", b"1")
        raise ZeroDivisionError
    assert store.changed.count() == count


def test_a_write_that_makes_no_decision_possible_wakes_only_displays(store: Store) -> None:
    shown, decided = store.changed.count(), store.due.count()
    with store.write(decidable=False) as connection:
        key_values.put(connection, "a", b"1")
    assert (store.changed.count(), store.due.count()) == (shown + 1, decided)
    with store.write() as connection:
        key_values.put(connection, "a", b"2")
    assert (store.changed.count(), store.due.count()) == (shown + 2, decided + 1)


def test_a_nested_write_is_an_error(store: Store) -> None:
    with store.write() as connection:
        with pytest.raises(RuntimeError, match="in a write already"), store.write():
            pass
        key_values.put(connection, "a", b"1")
    with store.write() as connection:
        assert key_values.get(connection, "a") == b"1"


def test_many_readers_do_not_keep_a_writer_waiting(store: Store) -> None:
    with ExitStack() as readers:
        for _ in range(20):
            readers.enter_context(store.read())
        with store.write() as connection:
            key_values.put(connection, "a", b"1")


def test_waiting_ends_with_its_time() -> None:
    assert ChangeSignal().wait(0, 0.01) == 0


def test_threads_lose_no_update(store: Store) -> None:
    def count() -> None:
        for _ in range(20):
            with store.write() as connection:
                now = int(key_values.get(connection, "count") or b"0")
                key_values.put(connection, "count", str(now + 1).encode())

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as connection:
        assert key_values.get(connection, "count") == b"160"


def test_the_file_is_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "new" / "dispatcher.db"
    old = os.umask(0)
    try:
        opened = open_store(path)
        with opened.read():
            modes = [stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()]
        opened.close()
    finally:
        os.umask(old)
    assert modes == [0o600] * 3
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "no.db"
    path.write_bytes(b"this is no database, but long enough to be looked at" * 100)
    with pytest.raises(StoreError, match=r"no\.db.*not a database"):
        open_store(path)
    with pytest.raises(StoreError, match=r"database /dev/null/x"):
        open_engine("/dev/null/x/y.db")


def test_a_full_disk_is_an_error_and_changes_nothing(store: Store) -> None:
    with store.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    with pytest.raises(StoreError, match="full"), store.write() as connection:  # noqa: PT012
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
        for number in range(1000):
            audit.write(connection, float(number), "x" * 1000)
    store.close()
    with store.write() as connection:
        assert audit.list_entries(connection) == []
        audit.write(connection, 1.0, "there is room again")


def test_a_file_locked_by_another_process_is_an_error(store: Store, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "dispatcher.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with store.read() as connection:
            assert (
                key_values.get(connection, "a") is None
            )  # a lock of a writer does not block readers
        with store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 20")
            connection.rollback()
        with pytest.raises(StoreError, match="locked"), store.write():
            pass
