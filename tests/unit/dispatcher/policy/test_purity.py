"""Tests that policy modules use no clock, no I/O and no random numbers, not even indirectly."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
#: Modules of values: rows and configuration.
VALUES = [
    "dispatcher.model", "dispatcher.configuration.git_address",
    "dispatcher.configuration.glob_patterns", "dispatcher.configuration.host_supply",
    "dispatcher.configuration.pipeline", "dispatcher.configuration.settings",
]  # fmt: skip
#: Modules with which both packages read configuration.
SHARED = [
    "shell_runner.errors", "shell_runner.collection.metadata", "shell_runner.toml_document",
    "shell_runner.validators",
]  # fmt: skip
POLICY = sorted(
    f"dispatcher.policy.{path.stem}"
    for path in (ROOT / "dispatcher" / "policy").glob("*.py")
    if path.stem != "__init__"
)
#: Modules of the standard library that compute and have no effects.
PURE_LIBRARIES = {
    "__future__", "bisect", "collections", "contextlib", "dataclasses", "enum", "fnmatch",
    "functools", "graphlib", "hashlib", "heapq", "ipaddress", "json", "math", "re", "tomllib",
    "typing", "urllib",
}  # fmt: skip
#: The configuration of a tree, and its place.
CONFIG = ("shell_runner.config", "shell_runner.config_file")
#: Functions from text to text, which policy may use too.
TEXT = "shell_runner.text"


def path_of(module: str) -> Path:
    """Return the file of a module."""
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def imports(module: str) -> set[str]:
    """Return what a module imports: our modules in full, others by their first name."""
    names = set()
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(path_of(module).read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*parents, *filter(None, [node.module])])
            submodules = {f"{origin}.{alias.name}" for alias in node.names}
            names |= {name for name in submodules if path_of(name).exists()} or {origin}
    ours = ("dispatcher", "shell_runner")
    return {name if name.startswith(ours) else name.partition(".")[0] for name in names}


@pytest.mark.parametrize("module", VALUES)
def test_modules_of_values_import_modules_of_values_only(module: str) -> None:
    allowed = PURE_LIBRARIES | {*VALUES, *SHARED, TEXT, *CONFIG}
    if module.endswith("settings"):
        allowed |= {"pathlib", "shell_runner.hosts.spec", "shell_runner.pools.provider"}
    assert imports(module) <= allowed


@pytest.mark.parametrize("module", SHARED)
def test_readers_of_configuration_import_modules_of_values_only(module: str) -> None:
    remote = {"shell_runner.remote.protocol.model", "shell_runner.remote.execution.spawn"}
    allowed = {"difflib", "shlex", *CONFIG, TEXT, *remote, *SHARED}
    assert imports(module) <= PURE_LIBRARIES | allowed


@pytest.mark.parametrize("module", POLICY)
def test_policy_imports_modules_of_values_only(module: str) -> None:
    assert imports(module) <= PURE_LIBRARIES | {*VALUES, *POLICY, TEXT}


def test_text_is_as_pure_as_policy() -> None:
    # Only fsencode of os, which computes.
    assert imports(TEXT) <= PURE_LIBRARIES | {"os", "shlex"}
    nodes = ast.walk(ast.parse(path_of(TEXT).read_bytes()))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    used = {
        node.attr
        for node in attributes
        if isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    assert used == {"fsencode"}


def test_nothing_opens_a_file() -> None:
    for module in [*VALUES, *POLICY, *SHARED]:
        nodes = ast.walk(ast.parse(path_of(module).read_bytes()))
        calls = [node.func for node in nodes if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        assert not names & {"open", "print", "exec", "eval", "__import__"}, module
