"""Changes of single values in JSON that a peer sends: odd types, ranges, texts and depths."""

from __future__ import annotations

import copy
import random
from typing import Any


def _nest(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


#: Values that JSON can hold and that hardly any field can have.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 5, -1, 1 << 40, 1 << 63, -(10**19), 0.5, -0.5, 1e300, 1e11,
    "", "x", "passed", "abc", "\ud800", "\udcff", "\0", "\x1b[2J\x07", "\u202e", "a\nb", "/",
    "../x", "3 m\ud800", "3 m\x1b[2J",
    "x" * 5000, [], [[]], [None], [[1, 2]], [["a", "b"]], ["a", 1], {}, {"a": 1}, _nest(150),
)  # fmt: skip


def change_json(rng: random.Random, value: Any, changes: int = 2) -> Any:
    """Return a copy of a JSON value with up to ``changes`` values replaced, removed or added."""
    result = copy.deepcopy(value)
    for _ in range(rng.randint(1, changes)):
        result = _change_once(rng, result)
    return result


def _change_once(rng: random.Random, value: Any) -> Any:
    places = list(_list_places(value))
    if not places:
        return rng.choice(ODD_VALUES)
    container, key = rng.choice(places)
    action = rng.randrange(6)
    if action == 0:
        del container[key]
    elif action == 1 and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif action == 2 and isinstance(container, list):
        container.insert(key, copy.deepcopy(rng.choice(ODD_VALUES)))
    else:
        container[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return value


def _list_places(value: Any) -> list[tuple[Any, Any]]:
    """Return container and key of each value at any depth, without recursion."""
    places: list[tuple[Any, Any]] = []
    left = [value]
    while left:
        container = left.pop()
        if isinstance(container, dict):
            keys: list[Any] = list(container)
        elif isinstance(container, list):
            keys = list(range(len(container)))
        else:
            continue
        places += [(container, key) for key in keys]
        left += [container[key] for key in keys]
    return places
