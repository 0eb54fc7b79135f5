"""The table of borders in docs/security.md: each row has a bound, and files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: The columns: what comes in, its bound, where it is checked, the tests.
Row = tuple[str, str, str, str]


def read_rows() -> list[Row]:
    page = (ROOT / "docs" / "security.md").read_text()
    table = page.partition("## Borders\n")[2]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in rows]  # type: ignore[misc]


ROWS = read_rows()


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_a_row_names_a_bound_and_files_that_exist(row: Row) -> None:
    _, bound, places, tests = row
    assert bound
    checked_in, tested_in = re.findall(r"`([^`]+)`", places), re.findall(r"`([^`]+)`", tests)
    assert checked_in
    assert tested_in
    assert [name for name in [*checked_in, *tested_in] if not (ROOT / name).is_file()] == []
    assert not [name for name in checked_in if name.startswith("tests/")]
    assert not [name for name in tested_in if not name.startswith("tests/")]


def test_no_border_is_named_twice() -> None:
    subjects = [row[0] for row in ROWS]
    assert len(set(subjects)) == len(subjects) > 20


def test_every_fuzzer_is_the_test_of_a_border() -> None:
    fuzzers = {f"tests/fuzz/{path.name}" for path in (ROOT / "tests/fuzz").glob("test_*.py")}
    named = {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[3])}
    assert fuzzers - named == set()
