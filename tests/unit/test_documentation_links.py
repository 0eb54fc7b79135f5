"""Links of the documentation lead to files, and to tests, that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: ``[text](target)``, and ``[name]: target "name of a test"``.
LINK = re.compile(r"\]\(([^)\s]+)\)")
REFERENCE = re.compile(r'^\[[^\]]+\]: (\S+)(?: "(.+)")?$', re.MULTILINE)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_local(target: str) -> bool:
    return not target.startswith(("http://", "https://", "#", "mailto:"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    text = page.read_text()
    targets = LINK.findall(text) + [target for target, _ in REFERENCE.findall(text)]
    missing = [
        target
        for target in targets
        if is_local(target) and not (page.parent / target.partition("#")[0]).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_tests_exist(page: Path) -> None:
    missing = []
    for target, test in REFERENCE.findall(page.read_text()):
        function = test.partition("[")[0]
        path = page.parent / target
        if function and not re.search(rf"^def {re.escape(function)}\(", path.read_text(), re.M):
            missing.append(f"{target}: {test}")
    assert not missing
