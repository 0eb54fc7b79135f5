"""Tests that the settings of the garbage collector are restored."""

import gc
from collections.abc import Iterator

import pytest

from pytest_nosejobs.gc_tuning import GcTuning


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_a_run_leaves_nothing_behind() -> None:
    before = gc.get_threshold()
    tuning = GcTuning()
    tuning.begin()
    tuning.freeze()
    assert gc.get_threshold()[0] > before[0]
    assert gc.get_freeze_count()
    tuning.end()
    assert gc.get_threshold() == before
    assert not gc.get_freeze_count()


def test_what_others_have_set_stays() -> None:
    gc.set_threshold(0, 10, 10)
    gc.freeze()
    tuning = GcTuning()
    tuning.end()  # no run on hosts has begun
    assert gc.get_freeze_count()
    tuning.begin()
    assert gc.get_threshold() == (0, 10, 10)
