"""What a watched source says of its trouble."""

from typing import Any

import pytest

from dispatcher.builds.source_watcher import TIDY_INTERVAL, Watch
from dispatcher.configuration import settings
from dispatcher.sources.git_command import SourceError
from dispatcher.store import Store, key_values


class FakeSource:
    """A source that counts its clean-ups, and may fail at them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.count, self.error = 0, error

    def tidy(self) -> None:
        """Count, and fail if it should."""
        self.count += 1
        if self.error is not None:
            raise self.error


def read_first(store: Store, at: float) -> None:
    """Write what the first poll of a source that has branches writes."""
    with store.write() as connection:
        key_values.put(connection, "tidied app", b"%f" % at)


def run_at(store: Store, source: FakeSource, *times: float) -> list[float]:
    """Run a watcher that polls once at each of these times; return when it did."""
    unused: Any = None
    left, polled = list(times), list[float]()
    wanted = settings.Source("app", git="/x", poll=0)
    double: Any = source
    watch = Watch(store, wanted, double, unused, clock=lambda: polled[-1])

    def look() -> float:
        polled.append(left.pop(0))
        return 0

    def tidy() -> None:
        type(watch)._tidy_if_due(watch)
        if not left:
            watch.close()

    watch.look = look  # type: ignore[method-assign]
    watch._tidy_if_due = tidy  # type: ignore[method-assign]
    watch.run()
    return polled


def test_a_mirror_is_tidied_once_in_an_interval_also_across_restarts(store: Store) -> None:
    source, day = FakeSource(), TIDY_INTERVAL
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
    times = [1.0, TIDY_INTERVAL + 1.0, TIDY_INTERVAL + 2.0, TIDY_INTERVAL + 3.0]
    assert run_at(store, source, *times) == times
    assert source.count == 1
    assert [record.getMessage() for record in caplog.records] == [
        "source app: clean-up failed: no space left"
    ]


def test_a_trouble_is_logged_once_until_it_is_another(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    gone, full = SourceError("it is gone"), SourceError("the disk is full")
    looks = [gone, gone, full, full, None, full]
    unused: Any = None
    watch = Watch(store, settings.Source("app", git="/x", poll=0), unused, unused)

    def look() -> float:
        found = looks.pop(0)
        if not looks:
            watch.close()
        if found is not None:
            raise found
        return 0

    watch.look = look  # type: ignore[method-assign]
    watch.run()
    assert [record.getMessage() for record in caplog.records] == [
        "source app: it is gone", "source app: the disk is full", "source app: the disk is full",
    ]  # fmt: skip
