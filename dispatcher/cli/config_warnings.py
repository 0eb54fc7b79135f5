"""Warnings about configs that are valid, but do not fit the tree or each other.

Responsible for what neither file shows alone: names that the tree does not have, stages that no
host can run, and sources that are not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from shell_runner.errors import UsageError
from shell_runner.text import shorten_list, to_single_line
from shell_runner.validators import format_suggestion

from ..builds.checkout_reader import select_tests
from ..configuration.glob_patterns import compile_patterns
from ..configuration.host_supply import list_configured_hosts, never_placed_reason
from ..configuration.pipeline import Mode, PipelineConfig, Stage, build_as_stage
from ..configuration.settings import Retention, Settings, Source
from ..sources.git_command import SourceError
from ..sources.git_source import list_branches

#: Characters of a pattern, which need not match anything yet.
_PATTERN_CHARS = "*?["
#: Seconds until git has listed the branches of a repository on this machine.
_GIT_TIMEOUT = 10.0
#: Tests of a stage that are named because every host skips them.
_MAX_NAMED_TESTS = 20

#: The pipeline of a tree, and the folder of the tree.
Tree = tuple[PipelineConfig, Path]


def warn_about_tree(config: PipelineConfig, root: Path) -> Iterator[str]:
    """Yield a warning for each name of a stage or the build that selects nothing in the tree.

    The file may be checked before the tree is complete, so that none of this is an error.
    """
    for stage in config.stages:
        yield from _warn_about_tests(stage, root)
    for name in config.build.inputs if config.build else ():
        if _is_missing(root, name):
            yield f"build: there is no {name!r} in the tree; changes to it cannot be seen"


def _warn_about_tests(stage: Stage, root: Path) -> Iterator[str]:
    # A test is named as its node id: a file, and perhaps a case.
    missing = [name for name in stage.tests if _is_missing(root, name.split("::")[0])]
    for name in missing:
        yield f"stage {stage.name}: there is no {name!r} in the tree; its tests cannot run"
    if missing:
        return
    try:
        tests = select_tests(root, stage)
    except UsageError as error:
        message = re.sub(r"\n\s*", "; ", str(error))
        yield f"stage {stage.name}: {to_single_line(message)}"
        return
    if not tests:
        yield f"stage {stage.name}: there are no tests for it in the tree"


def _is_missing(root: Path, name: str) -> bool:
    return not any(char in name for char in _PATTERN_CHARS) and not (root / name).exists()


def warn_about_sources(settings: Settings) -> Iterator[str]:
    """Yield a warning for each source in the file system that has nothing to build."""
    for source in settings.sources:
        path = _local_path(source)
        if path is not None and (message := _describe_source_error(source, path)):
            yield f"source {source.name}: {message}"


def _describe_source_error(source: Source, path: Path) -> str:
    if not path.exists():
        return f"{path} does not exist"
    if not path.is_dir():
        return f"{path} is no folder"
    if not source.git:
        return ""
    branches = _list_branches(path)
    if branches is None:
        return f"{path} is no git repository that can be read; use directory for a plain folder"
    if not branches:
        return f"{path} has no branch yet"
    if not any(map(compile_patterns(source.branches), branches)):
        wanted, existing = ", ".join(source.branches), ", ".join(shorten_list(branches, 5))
        return f"no branch of {path} matches {wanted}; there are: {existing}"
    return ""


def _list_branches(path: Path) -> list[str] | None:
    """Return the branches of a repository on this machine; None: it cannot be read."""
    try:
        return [to_single_line(branch) for branch in list_branches(str(path), _GIT_TIMEOUT)]
    except SourceError:
        return None


def _local_path(source: Source) -> Path | None:
    """Return the folder of a source; None if it is on another machine."""
    address = source.directory or source.git.removeprefix("file://")
    return Path(address) if address.startswith("/") else None


def warn_about_both(trees: Sequence[Tree], settings: Settings) -> Iterator[str]:
    """Yield a warning for each name or number in one file that the other one cannot satisfy."""
    for config, root in trees:
        yield from _warn_about_hosts(config, settings)
        for stage in config.stages:
            yield from _warn_about_skipped_tests(stage, root, settings)
    if trees:
        yield from _warn_about_levels([config for config, _ in trees], settings)


def _warn_about_skipped_tests(stage: Stage, root: Path, settings: Settings) -> Iterator[str]:
    """Yield a warning for each test that requires labels which no host of its stage has."""
    offers = {host.labels for host in settings.hosts.values()}
    offers.update(pool.labels for pool in settings.pools)
    matching = [labels for labels in offers if set(stage.labels) <= set(labels)]
    unmet: dict[str, str] | None = None
    for labels in matching:
        try:
            tests = select_tests(root, stage, labels)
        except UsageError:
            return  # ``warn_about_tree`` says it
        # "requires docker: no host of this run has it"
        skipped = {test.nodeid: test.unmet.partition(":")[0] for test in tests if test.unmet}
        unmet = skipped if unmet is None else {k: v for k, v in unmet.items() if k in skipped}
        if not unmet:
            return
    lines = [
        f"{test} {requirement}; no host and no pool of the stage has all of these labels, "
        "so that it is always skipped"
        for test, requirement in (unmet or {}).items()
    ]
    for line in shorten_list(lines, _MAX_NAMED_TESTS):
        yield f"stage {stage.name}: {line}"


def _warn_about_hosts(config: PipelineConfig, settings: Settings) -> Iterator[str]:
    """Yield a warning for each stage that needs more hosts than can ever have its labels."""
    hosts = list_configured_hosts(settings)
    builds = [build_as_stage(config.build)] if config.build else []
    for stage in (*builds, *config.stages):
        reason = never_placed_reason(stage.name, stage.labels, stage.hosts, hosts, settings.pools)
        # Fewer tests than hosts are split over fewer hosts, so that one host can be enough.
        if reason and stage.mode is Mode.SHARD:
            reason = never_placed_reason(stage.name, stage.labels, 1, hosts, settings.pools)
        if reason:
            yield f"stage {stage.name}: {reason}"


def _warn_about_levels(configs: Sequence[PipelineConfig], settings: Settings) -> Iterator[str]:
    """Yield a warning for each level that retention names and no build can have."""
    known = {"goop"} | {level.name for config in configs for level in config.levels}
    for name in settings.retention.levels:
        if name not in known and settings.retention.levels != Retention.levels:
            yield f"[retention] levels: no level {name!r}{format_suggestion(name, known)}"
