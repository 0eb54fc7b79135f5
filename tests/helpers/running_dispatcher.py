"""A dispatcher without API in this process, with a real repository and real hosts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from dispatcher.configuration.pipeline import SHIP_STAGES
from dispatcher.configuration.settings import Settings, parse
from dispatcher.hosts.job_steps import HostTimeouts
from dispatcher.model import BuildState, Job, StageRun, StageState
from dispatcher.service import Service
from dispatcher.store import api_queries, jobs, stage_runs
from dispatcher.store.api_queries import BuildDetail
from tests.helpers import job_hosts
from tests.helpers.git_repository import Repository

#: Seconds that a step may take on a busy machine.
STATE_TIMEOUT = 90.0
BUILD = '[build]\ncommand = "mkdir dist && cp app dist/"\noutput = "dist"\n'
HOSTS = '[hosts.h1]\nspec = "popen"\n'


def stage_toml(name: str, *lines: str) -> str:
    """Return the configuration of a stage with the tests in the folder of its name."""
    return "\n".join([f"[stages.{name}]", f'tests = ["tests/{name}"]', *lines, ""])


class SampleRepository(Repository):
    """A repository with a program, a build command and tests."""

    def __init__(self, path: Path, config: str = "", stages: tuple[str, ...] = ()) -> None:
        super().__init__(path)
        for name in stages:
            self.write_test(name)
        self.write_script("app", "echo the app")
        self.write_config(config + "".join(map(stage_toml, stages)))

    def write_config(self, text: str) -> None:
        """Write nosejobs.toml."""
        (self.path / "nosejobs.toml").write_text(text)

    def write_script(self, name: str, text: str) -> Path:
        """Write a script; return its path."""
        return job_hosts.write_script(self.path, name, text)

    def write_test(self, stage: str, text: str = "exit 0", name: str = "test_it.sh") -> Path:
        """Write a test of a stage; return its path."""
        return self.write_script(f"tests/{stage}/{name}", text)


class SharedRepository(SampleRepository):
    """A repository that several tests use in turn; a callback is told of each commit."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.on_commit: Callable[[], None] = lambda: None

    def commit(self, subject: str = "more", **files: str) -> str:
        """Commit, and call ``on_commit``."""
        revision = super().commit(subject, **files)
        self.on_commit()
        return revision

    def clear(self) -> None:
        """Remove all files but the program; commits stay."""
        self.git("rm", "-rfq", "--ignore-unmatch", ".")
        self.write_script("app", "echo the app")


def six_stage_repository(path: Path) -> SampleRepository:
    """Return a repository with the stages of the default levels."""
    return SampleRepository(path, BUILD, SHIP_STAGES)


def make_settings(folder: Path, tree: Path, hosts: str = HOSTS, more: str = "") -> Settings:
    """Return settings of a dispatcher; sources are not polled within a test."""
    own = f'[dispatcher]\ndata = "data"\npoll = "1h"\n{more}\n[sources.here]\ngit = "{tree}"\n'
    return parse(own + hosts, folder)


class RunningDispatcher:
    """A service in this process, and queries of its rows."""

    def __init__(self, settings: Settings, **terms: Any) -> None:
        self.service = Service(settings, HostTimeouts(**terms))
        self.store = self.service.store

    def __enter__(self) -> Self:
        self.service.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.service.stop()

    def poke(self) -> None:
        """Let the dispatcher poll the source."""
        self.service.poke("here")

    def find(self, revision: str) -> BuildDetail | None:
        """Return the build of a revision, or None."""
        with self.store.read() as connection:
            builds = api_queries.list_builds(connection, api_queries.BuildFilter(revision=revision))
            return api_queries.get_build_detail(connection, builds[0].build.id) if builds else None

    def wait_until(self, revision: str, what: Callable[[BuildDetail], bool]) -> BuildDetail:
        """Return the build of a revision once ``what`` is true for it; checked at each change."""
        deadline = time.monotonic() + STATE_TIMEOUT
        while True:
            change_count = self.store.changed.count()
            build = self.find(revision)
            if build is not None and what(build):
                return build
            left = deadline - time.monotonic()
            assert left > 0, f"timeout: {build and newest_states(build)}"
            self.store.changed.wait(change_count, min(left, 5.0))

    def wait_for_level(self, revision: str, level: str) -> BuildDetail:
        """Return the build once it has a level."""
        return self.wait_until(revision, lambda found: found.view.build.level == level)

    def wait_for_build(self, revision: str, state: BuildState) -> BuildDetail:
        """Return the build once it has a state."""
        return self.wait_until(revision, lambda found: found.view.build.state is state)

    def wait_for_run(
        self, revision: str, stage: str, state: StageState, number: int = 1
    ) -> StageRun:
        """Return a stage run once it has a state."""

        def is_so(build: BuildDetail) -> bool:
            return (stage, number, state) in [(r.stage, r.number, r.state) for r in build.view.runs]

        build = self.wait_until(revision, is_so)
        return next(r for r in build.view.runs if (r.stage, r.number) == (stage, number))

    def jobs(self, run: StageRun) -> list[Job]:
        """Return all jobs of a stage run."""
        with self.store.read() as connection:
            return jobs.list_by_run(connection, run.id)

    def add_rerun(self, build: int, stage: str, only: tuple[str, ...] | None = None) -> None:
        """Add another run of a stage."""
        with self.store.write() as connection:
            number = stage_runs.next_number(connection, build, stage)
            run = StageRun(0, build, stage, number, selected_tests=only, requested_by="ann")
            assert stage_runs.add(connection, run)


def newest_states(found: BuildDetail) -> dict[str, str]:
    """Return the state of the newest run of each stage."""
    return {run.stage: str(run.state) for run in found.view.runs}
