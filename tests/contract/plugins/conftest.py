"""The environment of the plugins, and runs of the sample project with and without one."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.plugins.plugin_environment import provide_environment
from tests.contract.plugins.plugin_table import PLUGINS
from tests.contract.plugins.sample_project import Run, SampleProject

#: Options by mode: on this machine, and on hosts.
MODES: dict[str, list[str]] = {"here": [], "hosts": ["--nosejobs=2*popen"]}


@pytest.fixture(scope="session")
def plugin_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of the environment that all processes of these tests share."""
    folder = tmp_path_factory.getbasetemp()
    if folder.name.startswith("popen-"):  # a worker of xdist
        folder = folder.parent
    return provide_environment(folder / "plugins")


@pytest.fixture(scope="session")
def make_project(
    plugin_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], SampleProject]:
    """Return a function that makes an empty project."""
    numbers = itertools.count()
    folder = tmp_path_factory.mktemp("plugins")
    return lambda: SampleProject(folder / f"p{next(numbers)}", plugin_python)


@pytest.fixture
def project(make_project: Callable[[], SampleProject]) -> SampleProject:
    """Return an empty project."""
    return make_project()


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    """Return the name of a mode."""
    name: str = request.param
    return name


@pytest.fixture
def hosts(mode: str) -> list[str]:
    """Return the options of a mode."""
    return MODES[mode]


@pytest.fixture(scope="session")
def run_with(make_project: Callable[[], SampleProject]) -> Callable[[str, str], Run]:
    """Return a function that runs the project once with a plugin, or with none, in a mode."""

    @functools.cache
    def run(name: str, mode: str) -> Run:
        project = make_project()
        project.add_all()
        if not name:
            return project.run(*MODES[mode])
        (plugin,) = [each for each in PLUGINS if each.name == name]
        if plugin.sample:
            project.file("test_sample.py", plugin.sample)
        return project.run(*plugin.load_options, *plugin.options, *MODES[mode])

    return run
