"""Checks of the sources by other programs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ["pytest_nosejobs", "dispatcher", "shell_runner", "tests"]
VERMIN = "import sys, vermin; sys.exit(vermin.main())"
CHECKS = {
    "ruff": ["-m", "ruff", "check", "--no-cache", *SOURCES],
    "mypy": ["-m", "mypy", "--strict"],
    "vermin": ["-c", VERMIN, "-q", "--no-tips", "-t=3.8-", "shell_runner/remote"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_sources_are_clean(name: str, tmp_path: Path) -> None:
    command = [sys.executable, *CHECKS[name]]
    if name == "mypy":
        command.append(f"--cache-dir={tmp_path}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    ("schema", "recipe"),
    [("vendor.github-workflows", "github-actions.yml"), ("vendor.gitlab-ci", "gitlab-ci.yml")],
)
def test_recipes_fit_the_schemas_of_their_ci(schema: str, recipe: str) -> None:
    command = ["-m", "check_jsonschema", "--builtin-schema", schema, f"docs/ci/{recipe}"]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
