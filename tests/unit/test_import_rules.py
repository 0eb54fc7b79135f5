"""The directions in which packages may import each other."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("dispatcher", "pytest_nosejobs", "shell_runner")
ALLOWED = {
    "dispatcher": {"dispatcher", "shell_runner"},
    "pytest_nosejobs": {"pytest_nosejobs", "shell_runner"},
    "shell_runner": {"shell_runner"},
}
FILES = [path for package in OURS for path in sorted((ROOT / package).rglob("*.py"))]
REMOTE = [path for path in FILES if path.is_relative_to(ROOT / "shell_runner" / "remote")]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, module) of every import of a file, those in functions too."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((0, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def absolute(path: Path) -> Iterator[str]:
    """The full name of every module that a file imports."""
    parts = [*path.relative_to(ROOT).with_suffix("").parts]
    for level, module in imports(path):
        above = parts[: len(parts) - level] if level else []
        yield ".".join([*above, *filter(None, [module])])


def test_there_is_something_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(OURS)
    assert "shell_runner/remote/execution/slot.py" in map(name_of, REMOTE)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_packages_import_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    used = {module.split(".")[0] for module in absolute(path)} & set(OURS)
    assert used <= ALLOWED[package]


@pytest.mark.parametrize("path", REMOTE, ids=name_of)
def test_hosts_code_imports_itself_and_the_standard_library_only(path: Path) -> None:
    for level, module in imports(path):
        if level == 0:
            assert module.split(".")[0] in sys.stdlib_module_names
    for module in absolute(path):
        if module.split(".")[0] in OURS:
            assert module.startswith("shell_runner.remote")


def test_bootstrap_imports_nothing_of_ours() -> None:
    found = list(imports(ROOT / "shell_runner" / "remote" / "bootstrap.py"))
    assert found
    assert all(level == 0 for level, _ in found)


def test_only_gateways_imports_execnet() -> None:
    users = [name_of(p) for p in FILES if any(m.split(".")[0] == "execnet" for m in absolute(p))]
    assert users == ["shell_runner/hosts/gateway.py"]


@pytest.mark.parametrize("package", ["shell_runner", "dispatcher"])
def test_only_the_glue_knows_pytest(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not {m.split(".")[0] for m in absolute(path)} & {"pytest", "_pytest"}, path
