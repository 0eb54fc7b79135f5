"""Tests of the fast collector of folders, which finds the same tests as that of pytest."""

import pytest

from .conftest import Project

_HOST = "--nosejobs=popen"
_ASKED = """\
from pytest_nosejobs.fast_directory import Dir, is_fast

def pytest_collection_finish(session):
    found = [item.parent.parent for item in session.items if item.path.suffix == ".sh"]
    print("quick:", {isinstance(each, Dir) and is_fast(each) for each in found})
"""
#: Options that change which files are collected.
_OTHERS = {
    "a list": "collect_ignore = ['sub/test_b.sh']",
    "patterns": "collect_ignore_glob = ['*_b.sh']",
    "a refusal": """
def pytest_ignore_collect(collection_path):
    return True if collection_path.name == "test_b.sh" else None
""",
    "files": """
import pytest
class Item(pytest.Item):
    def runtest(self): pass
class File(pytest.File):
    def collect(self): yield Item.from_parent(self, name="other")
def pytest_collect_file(file_path, parent):
    return File.from_parent(parent, path=file_path)
""",
    "folders": """
import pytest
class Backwards(pytest.Directory):
    def collect(self):
        for path in sorted(self.path.iterdir(), reverse=True):
            if path.is_file():
                yield from self.ihook.pytest_collect_file(file_path=path, parent=self)
def pytest_collect_directory(path, parent):
    return Backwards.from_parent(parent, path=path) if path.name == "sub" else None
""",
}


@pytest.fixture(autouse=True)
def _tree(project: Project) -> None:
    for name in (
        "test_a.sh", "run.sh", "sub/test_a.sh", "sub/test_b.sh", "sub/deep/test_c", "sub/data.json",
        "package/test_d.sh", "env/test_e.sh", ".hidden/test_f.sh", "build/test_g.sh",
    ):  # fmt: skip
        project.add(name)
    project.add("sub/test_doc.sh", "#!/bin/sh\n# >>> 1\n# 1\n")
    project.file("sub/test_doc.txt", ">>> 1\n1\n")
    project.file("sub/test_py.py", "def test_py(): pass\n")
    project.file("package/__init__.py", "")
    project.file("package/test_module.py", "def test_py(): pass\n")
    project.file("env/pyvenv.cfg", "")
    (project.root / "test_link").symlink_to("sub/deep/test_c")
    (project.root / "test_dangling").symlink_to("nothing")
    (project.root / "linked").symlink_to("sub/deep")


def _collect_as_pytest(project: Project, *arguments: str) -> list[str]:
    """Return what pytest's own collector of folders finds: an unknown hook brings it back."""
    project.file("own_folders.py", "def pytest_collect_directory(): pass\n")
    return project.collect("-p", "own_folders", *arguments)


def _same(project: Project, *arguments: str) -> list[str]:
    expected = _collect_as_pytest(project, *arguments)
    assert project.collect(*arguments) == expected
    assert project.collect(_HOST, *arguments) == expected
    return expected


def test_all_files_are_found_in_the_same_order(project: Project) -> None:
    paths = _same(project)
    assert {"sub/test_py.py::test_py", "linked/test_c", "package/test_d.sh"} < set(paths)
    assert not any("env/" in each or "build/" in each for each in paths)
    runs = (("-p", "own_folders"), (), (_HOST,))
    trees = [project.run("--collect-only", *options).outlines for options in runs]
    expected, *others = ([line for line in tree if "<" in line] for tree in trees)
    assert others == [expected, expected]
    assert "    <Dir deep>" in expected


@pytest.mark.parametrize(
    ("arguments", "gone", "come"),
    [
        (("--ignore=sub/test_b.sh", "--doctest-glob=test_doc.*"), "sub/test_b.sh", "sub/test_doc"),
        (("--ignore-glob=*_b.sh",), "sub/test_b.sh", ""),
        (("sub/deep", "sub/test_b.sh", "run.sh"), "sub/test_a.sh", "run.sh"),
    ],
    ids=repr,
)
def test_options_choose_the_same(
    project: Project, arguments: tuple[str, ...], gone: str, come: str
) -> None:
    paths = _same(project, *arguments)
    assert gone not in paths
    assert any(each.startswith(come) for each in paths)


@pytest.mark.parametrize("name", _OTHERS)
def test_who_else_has_a_say_is_asked(project: Project, name: str) -> None:
    project.file("conftest.py", _OTHERS[name])
    paths = _same(project)
    if name in ("files", "folders"):
        other = "sub/test_b.sh::other" if name == "files" else "sub/test_b.sh"
        assert other in paths
        assert name == "files" or paths.index(other) < paths.index("sub/test_a.sh")
    else:
        assert "sub/test_b.sh" not in paths


def test_the_folder_of_hypothesis_is_ignored(project: Project) -> None:
    project.ini("norecursedirs = build")
    project.add(".hypothesis/test_h.sh")
    paths = _same(project, "-p", "_hypothesis_pytestplugin", "-W", "ignore")
    assert ".hidden/test_f.sh" in paths
    assert ".hypothesis/test_h.sh" not in paths


@pytest.mark.parametrize(
    "options",
    [(), (_HOST,), ("-p", "_hypothesis_pytestplugin")],
    ids=["here", "on hosts", "with Hypothesis"],
)
def test_with_nobody_else_the_quick_way_is_taken(
    project: Project, options: tuple[str, ...]
) -> None:
    for text, answer in ((_ASKED, True), (_ASKED + _OTHERS["a list"], False)):
        project.file("conftest.py", text)
        result = project.run("--collect-only", "-s", *options, "sub")
        result.stdout.fnmatch_lines([f"quick: {{{answer}}}"])
