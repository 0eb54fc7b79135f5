"""Tests of the first words of docstrings, and of the documentation of the public interface.

A docstring that starts with a function word ("What ...", "Of one that ...") is a fragment that a
reader has to decode.  The rule holds for the packages, the benchmarks and the tests.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("dispatcher", "pytest_nosejobs", "shell_runner", "benchmarks", "tests")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
FUNCTION_WORDS = {
    "As", "How", "It", "Of", "Those", "What", "Where", "Who", "Whoever", "Why",
}  # fmt: skip
#: ``file: name`` of a docstring that may start with such a word, and the reason.
EXCEPTIONS: dict[str, str] = {}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, docstring) of the module and of each class and function in it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", "the module"), text


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_docstrings_start_with_a_verb_or_a_noun(path: Path) -> None:
    wrong = [
        f"{name}: {text.splitlines()[0]}"
        for name, text in docstrings(path)
        if text.split()[0].strip("`,.:;") in FUNCTION_WORDS
        and f"{name_of(path)}: {name}" not in EXCEPTIONS
    ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_comments_of_attributes_start_with_a_noun(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    starts = [
        (number, line.strip()[3:].split())
        for number, line in enumerate(lines, 1)
        if line.strip().startswith("#: ") and not lines[number - 2].strip().startswith("#:")
    ]
    assert not [number for number, words in starts if words[0] in FUNCTION_WORDS]


#: Files whose functions and methods other people call or implement.
INTERFACES = [
    "shell_runner/__init__.py",
    "shell_runner/pools/hookspecs.py",
    "shell_runner/pools/provider.py",
    "pytest_nosejobs/newhooks.py",
]


def public_functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def names_it(text: str, parameter: str) -> bool:
    return f"``{parameter}``" in text or f":param {parameter}:" in text


@pytest.mark.parametrize("file", INTERFACES)
def test_the_public_interface_documents_parameters_and_errors(file: str) -> None:
    wrong = []
    for function in public_functions(ROOT / file):
        text = ast.get_docstring(function) or ""
        names = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
        names += [each.arg for each in function.args.kwonlyargs]
        missing = [
            name for name in names if name not in ("self", "cls") and not names_it(text, name)
        ]
        if missing or "aises" not in text:
            wrong.append(f"{function.name}: {', '.join(missing) or 'says nothing of errors'}")
    assert not wrong
