"""The garbage collector is left as it was found."""

import gc
from collections.abc import Iterator

import pytest

from pytest_nosejobs.gc_tuning import Patience


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_a_run_leaves_nothing_behind() -> None:
    before = gc.get_threshold()
    patience = Patience()
    patience.begin()
    patience.spare()
    assert gc.get_threshold()[0] > before[0]
    assert gc.get_freeze_count()
    patience.end()
    assert gc.get_threshold() == before
    assert not gc.get_freeze_count()


def test_what_others_have_set_stays() -> None:
    gc.set_threshold(0, 10, 10)
    gc.freeze()
    patience = Patience()
    patience.end()  # no run on hosts has begun
    assert gc.get_freeze_count()
    patience.begin()
    assert gc.get_threshold() == (0, 10, 10)
