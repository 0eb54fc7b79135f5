"""Tests of the comparison of two revisions by a benchmark."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import compare

    yield compare
    del sys.modules["compare"]


def test_figures_are_the_medians_of_all_rows(compare: ModuleType) -> None:
    rows = [{"what": "ours", "median": 2.0, "min": 1.0}, {"what": "lit", "median": 3.0}]
    found = {"tables": [{"title": "300 scripts", "rows": rows}], "skipped": []}
    figures = compare.read_figures(json.dumps({"figures": {"trivial": found}}), "trivial")
    assert figures == {("300 scripts", "ours"): 2.0, ("300 scripts", "lit"): 3.0}


def test_a_ratio_is_of_the_figures_of_one_round(compare: ModuleType) -> None:
    ours, new = ("300 scripts", "ours"), ("300 scripts", "new in B")
    rounds = [
        ({ours: 1.0}, {ours: 0.5, new: 9.0}),
        ({ours: 4.0}, {ours: 1.0, new: 9.0}),
        ({ours: 2.0}, {ours: 1.5, new: 9.0}),
    ]
    assert compare.format_rows(rounds) == [
        "",
        "300 scripts",
        "  ours: 2 -> 1, ratio 0.50 (0.25 to 0.75)",
    ]
