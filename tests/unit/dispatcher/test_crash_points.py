"""Tests of the crash points, which name functions as text that a rename does not find."""

from functools import reduce
from importlib import import_module

import pytest

from tests.helpers.dispatcher_processes import CRASH_POINTS, CrashPoint


@pytest.mark.parametrize("point", CRASH_POINTS.values(), ids=CRASH_POINTS)
def test_a_crash_point_names_a_function(point: CrashPoint) -> None:
    assert callable(reduce(getattr, point.name.split("."), import_module(point.module)))
