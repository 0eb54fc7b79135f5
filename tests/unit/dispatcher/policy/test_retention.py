"""Which builds need not keep their artefact and packages."""

from dispatcher.policy.retention import Kept, expired
from dispatcher.settings import Retention

WEEK = Retention(age=7.0, builds=1, levels=("ship",))


def test_what_is_old_and_neither_newest_nor_shipped_goes() -> None:
    builds = [
        Kept(1, 1, "goop", 0.0), Kept(2, 1, "ship", 0.0), Kept(3, 1, "published", 0.5),
        Kept(4, 1, "goop", 5.0), Kept(5, 1, "goop", None), Kept(6, 1, "goop", 0.0),
        Kept(7, 2, "goop", 0.0),
    ]  # fmt: skip
    assert expired(WEEK, builds, 8.0) == (1, 3)
    assert expired(WEEK, builds[::-1], 8.0) == (1, 3)
    assert expired(WEEK, builds, 7.0) == ()
    assert expired(WEEK, builds, 99.0) == (1, 3, 4)


def test_a_clock_that_was_set_back_deletes_nothing() -> None:
    assert expired(WEEK, [Kept(1, 1, "goop", 9.0), Kept(2, 1, "goop", 9.0)], 0.0) == ()
