"""Tests that no message has a count before a noun in the plural only: ``1 tests``."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Nouns of which there can be one.
NOUNS = "tests|hosts|jobs|cases|stages|builds|attempts|runs|packages|slots|failures|errors"
#: A number of things before such a noun; ``format_count`` and ``pluralize`` are right.
PLURAL_ONLY = re.compile(
    rf"\{{(?:len\([^{{}}]*\)|[^{{}}()]*(?:count|_not_run)[^{{}}()]*)\}} ({NOUNS})\b"
)


def test_counts_use_the_one_function_for_plurals() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for package in ("shell_runner", "dispatcher", "pytest_nosejobs")
        for path in sorted((ROOT / package).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        # More than one: another text is chosen for one.
        if PLURAL_ONLY.search(line) and "> 1" not in line
    ]
    assert not found, "use shell_runner.text.format_count"


@pytest.mark.parametrize(
    "text", ['f"{tests_not_run} tests x"', 'f"{len(a.b)} hosts"', "{found['test_count']} tests"]
)
def test_the_rule_finds_what_it_is_for(text: str) -> None:
    assert PLURAL_ONLY.search(text)
    assert not PLURAL_ONLY.search(text.replace("} ", ", 'test')} ").replace("{", "{format_count("))
