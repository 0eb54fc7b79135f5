"""The directions in which packages and folders may import each other."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("dispatcher", "pytest_nosejobs", "shell_runner")

#: The folders that each folder may import, beside itself.  A folder that is not in the table has no
#: modules.  ``shell_runner`` and ``dispatcher`` alone mean the files at the top of the package.
MAY_IMPORT: dict[str, set[str]] = {}

FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
REMOTE = [path for path in FILES if path.is_relative_to(ROOT / "shell_runner" / "remote")]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """Return the dotted name of a file's module; of ``__init__.py``, of its package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def imports(path: Path) -> frozenset[tuple[int, str]]:
    """Return (level, absolute name) of all that a file imports.

    Imports in functions and under ``TYPE_CHECKING`` count.  ``from a import b`` gives ``a.b`` where
    that is a module, else ``a``.
    """
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    package = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield node.level, name if name in MODULES else base


def own_imports(path: Path) -> set[str]:
    """Return the modules of this project that a file imports."""
    return {name for _, name in imports(path) if name in MODULES} - {module_of(path)}


def folder_of(module: str) -> str:
    return MODULES[module].parent.relative_to(ROOT).as_posix()


def test_the_table_names_each_folder_with_modules() -> None:
    assert set(MAY_IMPORT) == {path.parent.relative_to(ROOT).as_posix() for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_folders_import_what_the_table_allows(path: Path) -> None:
    folder = path.parent.relative_to(ROOT).as_posix()
    used = {folder_of(name) for name in own_imports(path)} - {folder}
    assert used <= MAY_IMPORT[folder]


def test_the_table_allows_nothing_that_is_not_used() -> None:
    used: dict[str, set[str]] = {folder: set() for folder in MAY_IMPORT}
    for path in FILES:
        folder = path.parent.relative_to(ROOT).as_posix()
        used[folder] |= {folder_of(name) for name in own_imports(path)} - {folder}
    assert used == MAY_IMPORT


def test_packages_import_one_way() -> None:
    for path in FILES:
        package = path.relative_to(ROOT).parts[0]
        assert {name.split(".")[0] for name in own_imports(path)} <= {package, "shell_runner"}, path


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: own_imports(path) for module, path in MODULES.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("path", REMOTE, ids=name_of)
def test_code_for_hosts_imports_itself_and_the_standard_library_only(path: Path) -> None:
    for level, name in imports(path):
        if level == 0:
            assert name.split(".")[0] in sys.stdlib_module_names
        else:
            assert name.startswith("shell_runner.remote")


def test_bootstrap_imports_nothing_of_the_project() -> None:
    levels = [level for level, _ in imports(ROOT / "shell_runner" / "remote" / "bootstrap.py")]
    assert levels
    assert not any(levels)


def test_only_the_gateway_imports_execnet() -> None:
    users = [
        name_of(path)
        for path in FILES
        if any(name.split(".")[0] == "execnet" for _, name in imports(path))
    ]
    assert users == ["shell_runner/hosts/gateway.py"]


@pytest.mark.parametrize("package", ["shell_runner", "dispatcher"])
def test_only_the_plugin_imports_pytest(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not {name.split(".")[0] for _, name in imports(path)} & {"pytest", "_pytest"}, path
