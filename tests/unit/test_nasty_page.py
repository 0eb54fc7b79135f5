"""docs/nasty.md names every program of the corpus with its outcome."""

from pathlib import Path

import pytest

from tests.nasty import corpus, corpus_table
from tests.nasty.corpus import NastyProgram

ROOT = Path(__file__).parents[2]
#: Checks of what other programs leave; the tests use them on their own.
CHECKS = {"clean_directories.sh", "foreign_kept.sh"}


def test_the_page_has_the_table_of_the_corpus() -> None:
    page = (ROOT / "docs" / "nasty.md").read_text()
    assert corpus_table.build_corpus_table().rstrip() in page, "run python benchmarks/nasty.py"


def test_every_program_is_in_the_table() -> None:
    table = corpus_table.build_corpus_table()
    files = {path.name for path in corpus.PROGRAMS.iterdir() if path.is_file()}
    assert {file for file in files if f"(`{file}`)" not in table} == CHECKS


@pytest.mark.parametrize("path", sorted(corpus.PROGRAMS.iterdir()), ids=lambda path: path.name)
def test_every_program_says_what_it_does(path: Path) -> None:
    if path.is_file():
        description = corpus_table.describe_program(NastyProgram(path.name, corpus.PASSED))
        assert description != path.name
        assert description[0].isupper()
