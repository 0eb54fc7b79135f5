"""Tests that names of cases do not depend on the place of the tree."""

from pathlib import Path

import pytest

from shell_runner.remote.formats.case_names import remove_tree_path
from shell_runner.remote.protocol.model import PASSED, Case, ParsedOutput


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{root}/sub/test_a.sh", "sub/test_a.sh"),
        ("{root}/sub/test_a.sh: works", "sub/test_a.sh: works"),
        ("run '{root}/a' and {root}/b", "run 'a' and b"),
        ("in {root}", "in ."),
        ("{root}//a", "a"),
        ("{root}2/a", "{root}2/a"),
        ("/mnt{root}/a", "/mnt{root}/a"),
        ("plain", "plain"),
    ],
)
@pytest.mark.parametrize("is_link", [False, True])
def test_paths_below_the_root_become_relative(
    tmp_path: Path, text: str, expected: str, is_link: bool
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "link").symlink_to("tree")
    root = str(tmp_path / ("link" if is_link else "tree"))
    for path in (root, str(tmp_path / "tree")):
        case = Case(text.format(root=path), PASSED, group=text.format(root=path))
        parsed = remove_tree_path(ParsedOutput("tap", [case]), root)
        assert parsed is not None
        assert {parsed.cases[0].name, parsed.cases[0].group} == {expected.format(root=path)}


def test_the_root_directory_and_no_cases_are_left_as_they_are() -> None:
    parsed = ParsedOutput("tap", [Case("/a", PASSED)])
    assert remove_tree_path(parsed, "/") == parsed
    assert remove_tree_path(None, "/x") is None
