"""Tests of the history of durations."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nosejobs import durations

HISTORY = st.dictionaries(st.text(max_size=5), st.floats(0, 1000))


class Cache(dict[str, Any]):
    """The part of pytest's cache that is used."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


@given(HISTORY, HISTORY)
def test_new_durations_move_the_old_half_way(old: dict[str, float], new: dict[str, float]) -> None:
    merged = durations.merge(old, new)
    assert set(merged) == set(old) | set(new)
    for name, seconds in merged.items():
        expected = (old.get(name, new.get(name, 0)) + new.get(name, old.get(name, 0))) / 2
        assert seconds == pytest.approx(expected, abs=1e-4)


@given(HISTORY.filter(bool))
def test_what_was_saved_is_loaded(new: dict[str, float]) -> None:
    cache = Cache()
    durations.save(cache, {}, new)
    assert durations.load(cache) == pytest.approx(new, abs=1e-4)


def test_the_oldest_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "_MAX_ENTRIES", 3)
    assert list(durations.merge({"a": 1, "b": 1, "c": 1}, {"d": 1, "a": 1})) == ["c", "d", "a"]
    assert len(durations.merge({"a": 1}, dict.fromkeys("bcdef", 1.0))) == 5


@pytest.mark.parametrize("broken", [None, [], "x", {"a": "soon"}, {"a": -1}, {"a": None}])
def test_a_broken_history_is_no_history(broken: Any) -> None:
    assert durations.load(Cache({"nosejobs/durations": broken})) == {}


def test_without_a_cache_there_is_no_history() -> None:
    assert durations.load(None) == {}
    durations.save(None, {}, {"a": 1.0})
