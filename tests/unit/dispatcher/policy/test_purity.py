"""What decides has no clock, no I/O, nothing random, and knows nothing of those that have."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4] / "dispatcher"
SHELL_RUNNER = ROOT.parent / "shell_runner"
VALUES = ["model", "globs", "config", "settings"]
#: What both packages read configuration with.
SHARED = ["errors", "metadata", "toml_document", "validators"]
POLICY = sorted(path.stem for path in (ROOT / "policy").glob("*.py") if path.stem != "__init__")
#: All that computes and does nothing.
HARMLESS = {
    "__future__", "bisect", "collections", "contextlib", "dataclasses", "enum", "fnmatch",
    "functools", "graphlib", "hashlib", "heapq", "ipaddress", "json", "math", "re", "tomllib",
    "typing", "urllib",
}  # fmt: skip
#: Functions from text to text, which policy may use too.
TEXT = "shell_runner.text"


def imports(path: Path) -> set[str]:
    """Absolute modules by their first word, ours with their whole name within the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [each.name for each in node.names]
            found |= {f"{'.' * node.level}{name}" for name in names}
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            found.add(name if name == TEXT else name.partition(".")[0])
    return found


@pytest.mark.parametrize("name", VALUES)
def test_values_know_values_only(name: str) -> None:
    besides = {"shell_runner", TEXT} | ({"pathlib"} if name == "settings" else set())
    assert imports(ROOT / f"{name}.py") <= HARMLESS | besides | {f".{each}" for each in VALUES}


@pytest.mark.parametrize("name", SHARED)
def test_readers_of_configuration_know_values_only(name: str) -> None:
    besides = {"difflib", "shlex", ".config", ".remote.model", ".remote.program"}
    ours = {f".{each}" for each in SHARED}
    assert imports(SHELL_RUNNER / f"{name}.py") <= HARMLESS | besides | ours


@pytest.mark.parametrize("name", POLICY)
def test_policy_knows_values_only(name: str) -> None:
    ours = {f"..{each}" for each in VALUES} | {f".{each}" for each in POLICY}
    assert imports(ROOT / "policy" / f"{name}.py") <= HARMLESS | ours | {TEXT}


def test_text_is_as_pure_as_policy() -> None:
    # Of os only fsencode, which computes.
    path = ROOT.parent / "shell_runner" / "text.py"
    assert imports(path) <= HARMLESS | {"os", "shlex"}
    used = [n for n in ast.walk(ast.parse(path.read_bytes())) if isinstance(n, ast.Attribute)]
    owned = {n.attr for n in used if isinstance(n.value, ast.Name) and n.value.id == "os"}
    assert owned == {"fsencode"}


def test_nothing_opens_a_file() -> None:
    paths = [ROOT / f"{name}.py" for name in VALUES] + [*(ROOT / "policy").glob("*.py")]
    paths += [SHELL_RUNNER / f"{name}.py" for name in SHARED]
    for path in paths:
        calls = [n.func for n in ast.walk(ast.parse(path.read_bytes())) if isinstance(n, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        assert not names & {"open", "print", "exec", "eval", "__import__"}, path
