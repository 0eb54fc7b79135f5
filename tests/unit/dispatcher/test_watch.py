"""What a watched source says of its trouble."""

from typing import Any

import pytest

from dispatcher import settings
from dispatcher.git import SourceError
from dispatcher.watch import Watch


def test_a_trouble_is_logged_once_until_it_is_another(caplog: pytest.LogCaptureFixture) -> None:
    gone, full = SourceError("it is gone"), SourceError("the disk is full")
    looks = [gone, gone, full, full, None, full]
    unused: Any = None
    watch = Watch(unused, settings.Source("app", git="/x", poll=0), unused, unused)

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
