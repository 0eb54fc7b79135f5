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

#: The layers that each layer may import, beside itself.  A layer is a folder; at the top of
#: ``dispatcher``, where the values (``model.py``) lie beside what starts everything (``up.py``), it
#: is a file.
MAY_IMPORT: dict[str, set[str]] = {
    "shell_runner": set(),
    "shell_runner/cli": {
        "shell_runner",
        "shell_runner/hosts",
        "shell_runner/jobs",
        "shell_runner/remote/agent",
        "shell_runner/remote/protocol",
    },
    "shell_runner/collection": {
        "shell_runner",
        "shell_runner/remote/execution",
        "shell_runner/remote/formats",
        "shell_runner/remote/protocol",
        "shell_runner/reporting",
    },
    "shell_runner/hosts": {
        "shell_runner",
        "shell_runner/remote",
        "shell_runner/remote/agent",
        "shell_runner/remote/files",
        "shell_runner/remote/protocol",
        "shell_runner/shipping",
    },
    "shell_runner/jobs": {
        "shell_runner",
        "shell_runner/collection",
        "shell_runner/hosts",
        "shell_runner/remote/archives",
        "shell_runner/remote/formats",
        "shell_runner/remote/jobs",
        "shell_runner/remote/protocol",
        "shell_runner/reporting",
        "shell_runner/shipping",
    },
    "shell_runner/pools": {
        "shell_runner",
        "shell_runner/hosts",
        "shell_runner/remote/agent",
        "shell_runner/remote/files",
        "shell_runner/remote/processes",
        "shell_runner/remote/protocol",
    },
    "shell_runner/remote": set(),
    "shell_runner/remote/agent": {
        "shell_runner/remote",
        "shell_runner/remote/files",
        "shell_runner/remote/jobs",
        "shell_runner/remote/processes",
    },
    "shell_runner/remote/archives": {"shell_runner/remote/files"},
    "shell_runner/remote/execution": {
        "shell_runner/remote",
        "shell_runner/remote/files",
        "shell_runner/remote/formats",
        "shell_runner/remote/processes",
        "shell_runner/remote/protocol",
    },
    "shell_runner/remote/files": {"shell_runner/remote/protocol"},
    "shell_runner/remote/formats": {"shell_runner/remote/protocol"},
    "shell_runner/remote/jobs": {
        "shell_runner/remote",
        "shell_runner/remote/archives",
        "shell_runner/remote/execution",
        "shell_runner/remote/files",
        "shell_runner/remote/processes",
        "shell_runner/remote/protocol",
    },
    "shell_runner/remote/processes": {"shell_runner/remote/protocol"},
    "shell_runner/remote/protocol": set(),
    "shell_runner/remote/sessions": {
        "shell_runner/remote/execution",
        "shell_runner/remote/files",
        "shell_runner/remote/jobs",
        "shell_runner/remote/processes",
        "shell_runner/remote/protocol",
    },
    "shell_runner/reporting": {
        "shell_runner",
        "shell_runner/remote/files",
        "shell_runner/remote/protocol",
    },
    "shell_runner/run": {
        "shell_runner",
        "shell_runner/collection",
        "shell_runner/hosts",
        "shell_runner/remote/execution",
        "shell_runner/remote/protocol",
        "shell_runner/reporting",
    },
    "shell_runner/shipping": {
        "shell_runner",
        "shell_runner/remote/files",
        "shell_runner/remote/protocol",
    },
    "pytest_nosejobs": {
        "shell_runner",
        "shell_runner/collection",
        "shell_runner/hosts",
        "shell_runner/remote/agent",
        "shell_runner/remote/formats",
        "shell_runner/remote/protocol",
        "shell_runner/reporting",
        "shell_runner/run",
        "shell_runner/shipping",
    },
    "dispatcher/__init__.py": set(),
    "dispatcher/__main__.py": {"dispatcher/cli"},
    "dispatcher/builds": {
        "dispatcher/configuration",
        "dispatcher/model.py",
        "dispatcher/policy",
        "dispatcher/sources",
        "dispatcher/store",
        "shell_runner",
        "shell_runner/collection",
        "shell_runner/hosts",
        "shell_runner/remote/archives",
        "shell_runner/remote/files",
        "shell_runner/remote/jobs",
        "shell_runner/remote/protocol",
        "shell_runner/shipping",
    },
    "dispatcher/cli": {
        "dispatcher/builds",
        "dispatcher/configuration",
        "dispatcher/sources",
        "dispatcher/up.py",
        "shell_runner",
        "shell_runner/cli",
    },
    "dispatcher/configuration": {
        "dispatcher/model.py",
        "shell_runner",
        "shell_runner/hosts",
        "shell_runner/pools",
    },
    "dispatcher/hosts": {
        "dispatcher/builds",
        "dispatcher/configuration",
        "dispatcher/model.py",
        "dispatcher/policy",
        "dispatcher/store",
        "shell_runner",
        "shell_runner/hosts",
        "shell_runner/jobs",
        "shell_runner/pools",
        "shell_runner/remote/formats",
        "shell_runner/remote/jobs",
        "shell_runner/remote/protocol",
        "shell_runner/shipping",
    },
    "dispatcher/model.py": {"shell_runner"},
    "dispatcher/policy": {"dispatcher/configuration", "dispatcher/model.py", "shell_runner"},
    "dispatcher/reconciler": {
        "dispatcher/builds",
        "dispatcher/configuration",
        "dispatcher/hosts",
        "dispatcher/model.py",
        "dispatcher/policy",
        "dispatcher/store",
        "shell_runner",
    },
    "dispatcher/service.py": {
        "dispatcher/builds",
        "dispatcher/configuration",
        "dispatcher/hosts",
        "dispatcher/reconciler",
        "dispatcher/sources",
        "dispatcher/store",
        "shell_runner",
    },
    "dispatcher/sources": {
        "dispatcher/configuration",
        "dispatcher/policy",
        "shell_runner",
        "shell_runner/remote/files",
        "shell_runner/shipping",
    },
    "dispatcher/store": {
        "dispatcher/model.py",
        "dispatcher/policy",
        "shell_runner",
        "shell_runner/remote/protocol",
    },
    "dispatcher/store/migrations": {"dispatcher/store"},
    "dispatcher/store/migrations/versions": {"dispatcher/store"},
    "dispatcher/up.py": {
        "dispatcher/configuration",
        "dispatcher/service.py",
        "dispatcher/store",
        "dispatcher/web",
        "shell_runner",
    },
    "dispatcher/web": {
        "dispatcher/configuration",
        "dispatcher/hosts",
        "dispatcher/model.py",
        "dispatcher/policy",
        "dispatcher/reconciler",
        "dispatcher/store",
        "shell_runner",
        "shell_runner/jobs",
        "shell_runner/remote/jobs",
        "shell_runner/remote/protocol",
    },
}

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


def refuse_cycles(graph: dict[str, set[str]]) -> None:
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def layer_of(path: Path) -> str:
    folder = path.parent.relative_to(ROOT).as_posix()
    return name_of(path) if folder == "dispatcher" else folder


def layers_used(path: Path) -> set[str]:
    return {layer_of(MODULES[name]) for name in own_imports(path)} - {layer_of(path)}


def test_the_table_names_each_layer() -> None:
    assert set(MAY_IMPORT) == {layer_of(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_layers_import_what_the_table_allows(path: Path) -> None:
    assert layers_used(path) <= MAY_IMPORT[layer_of(path)]


def test_the_table_allows_nothing_that_is_not_used() -> None:
    used: dict[str, set[str]] = {layer: set() for layer in MAY_IMPORT}
    for path in FILES:
        used[layer_of(path)] |= layers_used(path)
    assert used == MAY_IMPORT


def test_no_layer_imports_itself_in_a_circle() -> None:
    refuse_cycles(MAY_IMPORT)


def test_packages_import_one_way() -> None:
    for path in FILES:
        package = path.relative_to(ROOT).parts[0]
        assert {name.split(".")[0] for name in own_imports(path)} <= {package, "shell_runner"}, path


def test_no_module_imports_itself_in_a_circle() -> None:
    refuse_cycles({module: own_imports(path) for module, path in MODULES.items()})


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
