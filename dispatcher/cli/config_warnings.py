"""Warnings about configs that are valid, but do not fit the tree or each other.

Responsible for what neither file shows alone: names that the tree does not have, stages that no
host can run, and sources that are not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shell_runner.text import format_count, pluralize

from ..configuration.pipeline import PipelineConfig, build_as_stage
from ..configuration.settings import Settings, Source

#: Characters of a pattern, which need not match anything yet.
_PATTERN_CHARS = "*?["


def warn_about_tree(config: PipelineConfig, root: Path) -> Iterator[str]:
    """Yield a warning for each file or folder that a stage or the build names and is missing."""
    for stage in config.stages:
        for name in stage.tests:
            # A test is named as its node id: a file, and perhaps a case.
            if _is_missing(root, name.split("::")[0]):
                yield f"stage {stage.name}: there is no {name!r} in the tree; its tests cannot run"
    for name in config.build.inputs if config.build else ():
        if _is_missing(root, name):
            yield f"build: there is no {name!r} in the tree; changes to it cannot be seen"


def _is_missing(root: Path, name: str) -> bool:
    return not any(char in name for char in _PATTERN_CHARS) and not (root / name).exists()


def warn_about_sources(settings: Settings) -> Iterator[str]:
    """Yield a warning for each source in the file system that is missing or is no folder."""
    for source in settings.sources:
        path = _local_path(source)
        if path is not None and not path.is_dir():
            what = "is no folder" if path.exists() else "does not exist"
            yield f"source {source.name}: {path} {what}"


def _local_path(source: Source) -> Path | None:
    """Return the folder of a source; None if it is on another machine."""
    address = source.directory or source.git.removeprefix("file://")
    return Path(address) if address.startswith("/") else None


def warn_about_hosts(config: PipelineConfig, settings: Settings) -> Iterator[str]:
    """Yield a warning for each stage that needs more hosts than can ever have its labels."""
    builds = [build_as_stage(config.build)] if config.build else []
    for stage in (*builds, *config.stages):
        wanted = set(stage.labels)
        hosts = sum(wanted <= set(host.labels) for host in settings.hosts.values())
        hosts += sum(pool.max_hosts for pool in settings.pools if wanted <= set(pool.labels))
        if hosts < stage.hosts:
            noun = pluralize("label", len(wanted))
            labels = f" with {noun} {', '.join(stage.labels)}" if wanted else ""
            yield (
                f"stage {stage.name}: it can never be placed: it needs "
                f"{format_count(stage.hosts, 'host')}{labels}, and {hosts or 'none'} can be had "
                "from [hosts] and [pools]"
            )
