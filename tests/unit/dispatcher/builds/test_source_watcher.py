"""Tests of the watcher of a source: clean-ups of its mirror, and the log of its errors."""

from typing import Any

import pytest

from dispatcher.builds.source_watcher import CLEAN_UP_INTERVAL, SourceWatcher
from dispatcher.configuration import settings
from dispatcher.sources.git_command import SourceError
from dispatcher.store import Store, key_values


class FakeSource:
    """A source that counts its clean-ups, and may fail at them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.count, self.error = 0, error

    def clean_up(self) -> None:
        """Count the call, and raise the error if there is one."""
        self.count += 1
        if self.error is not None:
            raise self.error


def read_first(store: Store, at: float) -> None:
    """Record the first poll of a source that has branches."""
    with store.write() as connection:
        key_values.put(connection, "clean_up app", b"%f" % at)


def run_at(store: Store, source: FakeSource, *times: float) -> list[float]:
    """Run a watcher that polls once at each of these times; return when it did."""
    unused: Any = None
    left, polled = list(times), list[float]()
    config = settings.Source("app", git="/x", poll=0)
    fake: Any = source
    watcher = SourceWatcher(store, config, fake, unused, clock=lambda: polled[-1])

    def poll() -> float:
        polled.append(left.pop(0))
        return 0

    def clean_up_if_due() -> None:
        type(watcher)._clean_up_if_due(watcher)
        if not left:
            watcher.close()

    watcher.poll = poll  # type: ignore[method-assign]
    watcher._clean_up_if_due = clean_up_if_due  # type: ignore[method-assign]
    watcher.run()
    return polled


def test_a_mirror_is_cleaned_up_once_in_an_interval_also_across_restarts(store: Store) -> None:
    source, day = FakeSource(), CLEAN_UP_INTERVAL
    run_at(store, source, 1.0, day)
    assert source.count == 0  # it was never read: there is nothing to clean up
    read_first(store, 1.0)
    run_at(store, source, 1.0, 2.0, day)
    assert source.count == 0
    run_at(store, source, day, day + 1.0, day + 2.0)
    assert source.count == 1
    run_at(store, source, day + 3.0, 2 * day + 0.5, 2 * day + 1.0, 2 * day + 2.0)
    assert source.count == 2


def test_a_clean_up_that_fails_is_logged_and_polling_goes_on(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    source = FakeSource(SourceError("no space left"))
    read_first(store, 1.0)
    times = [1.0, CLEAN_UP_INTERVAL + 1.0, CLEAN_UP_INTERVAL + 2.0, CLEAN_UP_INTERVAL + 3.0]
    assert run_at(store, source, *times) == times
    assert source.count == 1
    assert [record.getMessage() for record in caplog.records] == [
        "source app: clean-up failed: no space left"
    ]


def test_an_error_is_logged_once_until_there_is_another(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    gone, full = SourceError("it is gone"), SourceError("the disk is full")
    errors = [gone, gone, full, full, None, full]
    unused: Any = None
    watcher = SourceWatcher(store, settings.Source("app", git="/x", poll=0), unused, unused)

    def poll() -> float:
        error = errors.pop(0)
        if not errors:
            watcher.close()
        if error is not None:
            raise error
        return 0

    watcher.poll = poll  # type: ignore[method-assign]
    watcher.run()
    assert [record.getMessage() for record in caplog.records] == [
        "source app: it is gone", "source app: the disk is full", "source app: the disk is full",
    ]  # fmt: skip
