"""The tables [build], [stages] and [levels] of a tree's nosejobs.toml.

Owns their keys, checks, defaults and digests.  Everybody who can push can write the text, so it is
not trusted; hosts, sources and secrets are never taken from it.  Pure: it turns a text into frozen
values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Any

from shell_runner import validators
from shell_runner.config import TABLE_NAMES
from shell_runner.config_file import CONFIG_FILE_NAME
from shell_runner.toml_document import Document, parse_document
from shell_runner.validators import Validator, format_suggestion

from ..model import BUILD, GOOP
from .glob_patterns import compile_patterns

#: Stages of the default levels.
PUBLISHED_STAGES = ("unit", "smoke", "regression")
SHIP_STAGES = (*PUBLISHED_STAGES, "performance", "scalability", "resilience")
_MAX_STAGES, _MAX_HOSTS, _MAX_LEVELS = 200, 1000, 50
_LOST_WORDS = {"never": 0, "once": 1}


class Mode(StrEnum):
    """The way in which a stage uses several hosts."""

    #: Each host runs all tests.
    EACH = "each"
    #: The tests are split over the hosts by their durations.
    SHARD = "shard"
    #: All hosts run all tests at the same time, and know the addresses of their peers.
    TOGETHER = "together"


class Gate(StrEnum):
    """A condition of a stage beside the stages that it needs."""

    NONE = "none"
    MANUAL = "manual"


@dataclass(frozen=True)
class BuildConfig:
    """``[build]``: how the artifact is made."""

    command: str
    #: File or folder in the tree that is the artifact; ``.``: the whole tree.
    output: str
    #: Patterns of the files that the artifact depends on; empty: the whole tree.
    inputs: tuple[str, ...] = ()
    timeout: float = 600.0
    labels: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Stage:
    """``[stages.NAME]``: a suite of tests, and the hosts that it needs."""

    name: str
    #: Names or patterns of tests; empty: all of the tree.
    tests: tuple[str, ...] = ()
    #: Only tests with one of these markers; empty: all.
    tags: tuple[str, ...] = ()
    install: str = ""
    labels: tuple[str, ...] = ()
    hosts: int = 1
    mode: Mode = Mode.EACH
    needs: tuple[str, ...] = ()
    gate: Gate = Gate.NONE
    timeout: float = 600.0
    job_timeout: float = 3600.0
    retries: int = 0
    #: Number of times that the job of a lost host is given to another host.
    lost: int = 1
    environment: tuple[tuple[str, str], ...] = ()


def build_as_stage(build: BuildConfig) -> Stage:
    """Return the build command as a stage with one test on one host."""
    return Stage(
        BUILD,
        labels=build.labels,
        timeout=build.timeout,
        job_timeout=build.timeout,
        environment=build.environment,
    )


@dataclass(frozen=True)
class Level:
    """A level of promotion: a build has it with the tags of these stages and of lower levels."""

    name: str
    stages: tuple[str, ...]


DEFAULT_LEVELS = (Level("published", PUBLISHED_STAGES), Level("ship", SHIP_STAGES))


@dataclass(frozen=True)
class PipelineConfig:
    """The pipeline that a tree configures."""

    #: None: the tree is its own build.
    build: BuildConfig | None = None
    stages: tuple[Stage, ...] = ()
    levels: tuple[Level, ...] = DEFAULT_LEVELS
    #: Likely mistakes that are no errors, with file and line.
    warnings: tuple[str, ...] = ()

    def stage(self, name: str) -> Stage | None:
        """Return the stage with this name, or None."""
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def as_json(self) -> dict[str, Any]:
        """The pipeline as JSON values, for a row; ``from_json`` is the inverse."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def parse(text: str | bytes, name: str = CONFIG_FILE_NAME) -> PipelineConfig:
    """Return the checked pipeline of a text; an empty text is a tree without the file.

    ``name``: name of the file in errors.  Raises InvalidConfig, which names file, line and key.
    """
    return from_document(parse_document(name, text))


def from_document(document: Document) -> PipelineConfig:
    """Return the checked pipeline of a document.

    Raises InvalidConfig, which names file, line and key.
    """
    document.check_keys((), TABLE_NAMES)
    stages, levels = _read_stages(document), _read_levels(document)
    _check_needs(document, stages)
    warnings = (
        *_warn_without_stages(document, stages),
        *_warn_about_levels(document, stages, levels),
    )
    return PipelineConfig(_read_build(document), stages, levels, warnings)


# -- [build] and [stages.NAME] ---------------------------------------------------------------

_read_variables = validators.variables(validators.MAX_TEXT_CHARS, reserved="NOSEJOBS_")


def _read_environment(value: Any) -> tuple[tuple[str, str], ...]:
    """Return variables, sorted, so that their order in the file does not change a digest."""
    return tuple(sorted(_read_variables(value)))


_BUILD_KEYS: Mapping[str, Validator] = {
    "command": validators.command(empty=False),
    "output": validators.path_in_tree,
    "inputs": validators.list_of(validators.path_in_tree, "patterns of paths", 1),
    "timeout": validators.duration(),
    "labels": validators.list_of(validators.label, "labels"),
    "environment": _read_environment,
}


def _read_lost(value: Any) -> int:
    number = _LOST_WORDS.get(value, value) if isinstance(value, str) else value
    if type(number) is not int or not 0 <= number <= 100:
        raise validators.InvalidValue('"never", "once", or a whole number up to 100')
    return number


_STAGE_KEYS: Mapping[str, Validator] = {
    "tests": validators.list_of(validators.line(), "names of tests (leave it out for all)", 1),
    "tags": validators.list_of(validators.label, "markers"),
    "install": validators.command(),
    "labels": validators.list_of(validators.label, "labels"),
    "hosts": validators.whole(1, _MAX_HOSTS),
    "mode": validators.one_of(*Mode),
    "needs": validators.list_of(validators.name, "names of stages"),
    "gate": validators.one_of(*Gate),
    "timeout": validators.duration(),
    "job_timeout": validators.duration(),
    "retries": validators.whole(0, 100),
    "lost": _read_lost,
    "environment": _read_environment,
}

_RESERVED = {BUILD: "the stage of that name is the build command"}


def _read_build(document: Document) -> BuildConfig | None:
    if "build" not in document.data:
        return None
    values = document.check_table(("build",), _BUILD_KEYS)
    for key in ("command", "output"):
        if key not in values:
            raise document.error(["build"], f"has no {key!r}, which it needs")
    return BuildConfig(**values)


def _read_stages(document: Document) -> tuple[Stage, ...]:
    """Return the stages in the order of the file.

    A stage without ``needs`` needs the stage before it.
    """
    table = document.table(["stages"])
    if len(table) > _MAX_STAGES:
        raise document.error(["stages"], f"must be at most {_MAX_STAGES}, not {len(table)}")
    stages: list[Stage] = []
    for name in table:
        stage = _read_stage(document, name)
        if "needs" not in table[name] and stages:
            stage = replace(stage, needs=(stages[-1].name,))
        stages.append(stage)
    return tuple(stages)


def _read_stage(document: Document, name: str) -> Stage:
    path = ("stages", name)
    document.check_name(path, _RESERVED)
    values = document.check_table(path, _STAGE_KEYS)
    mode, gate = Mode(values.pop("mode", "each")), Gate(values.pop("gate", "none"))
    stage = Stage(name, mode=mode, gate=gate, **values)
    if stage.mode is Mode.TOGETHER and stage.hosts < 2:
        raise document.error(
            [*path, "mode"], f"is together, which takes 2 hosts, not {stage.hosts}"
        )
    return stage


def _check_needs(document: Document, stages: Iterable[Stage]) -> None:
    names = [stage.name for stage in stages]
    for stage in stages:
        for need in stage.needs:
            if need not in names:
                path = ["stages", stage.name, "needs"]
                raise document.error(
                    path, f"names no stage: {need!r}{format_suggestion(need, names)}"
                )
    try:
        TopologicalSorter({stage.name: stage.needs for stage in stages}).prepare()
    except CycleError as error:
        # graphlib lists a stage before those that need it.
        cycle = list(reversed(error.args[1]))
        path = ["stages", cycle[0], "needs"]
        raise document.error(path, f"has a cycle: {' needs '.join(cycle)}") from None


def _warn_without_stages(document: Document, stages: tuple[Stage, ...]) -> tuple[str, ...]:
    if stages:
        return ()
    return (f"{document.name}: there are no [stages.NAME]: nothing is tested, builds stay {GOOP}",)


# -- [levels] --------------------------------------------------------------------------------

_read_stage_names = validators.list_of(validators.name, "names of stages", 1)


def _read_levels(document: Document) -> tuple[Level, ...]:
    """Return the levels in the order of the file, lowest first; by default, the default ones."""
    if "levels" not in document.data:
        return DEFAULT_LEVELS
    table = document.table(["levels"])
    if len(table) > _MAX_LEVELS:
        raise document.error(["levels"], f"must be at most {_MAX_LEVELS}, not {len(table)}")
    for name in table:
        document.check_name(("levels", name), {GOOP: "every build starts there"})
    return tuple(
        Level(name, document.check_value(("levels", name), _read_stage_names, value))
        for name, value in table.items()
    )


def _warn_about_levels(
    document: Document, stages: tuple[Stage, ...], levels: Iterable[Level]
) -> tuple[str, ...]:
    """Return warnings about levels that a build can reach only by tags that people give.

    A level may name the stages of the default levels before they exist; it is then out of reach,
    which is safe.  Raises InvalidConfig for any other name that is not a stage.
    """
    names = [stage.name for stage in stages]
    warnings = []
    for level in levels:
        missing = [each for each in level.stages if each not in names]
        path = ["levels", level.name]
        for name in missing:
            if name not in SHIP_STAGES:
                raise document.error(
                    path, f"names no stage: {name!r}{format_suggestion(name, names)}"
                )
        if missing and names:
            reason = f"there is no stage {', '.join(missing)}"
            hint = "" if "levels" in document.data else "; list its stages in [levels]"
            warnings.append(
                document.format_error(
                    path, f"can only be reached by tags given by hand: {reason}{hint}"
                )
            )
    return tuple(warnings)


# -- digests, rows, texts --------------------------------------------------------------------


_UNSET = object()
#: Keys of stages that were added after the first version, each with the value that stands for its
#: absence.  With that value a digest does not change, so that existing tags stay valid.
_KEYS_ADDED_LATER: Mapping[str, object] = {}


@lru_cache(maxsize=512)
def stage_digest(stage: Stage) -> str:
    """Return a digest of the configuration of a stage; a tag with another digest does not count."""
    values = asdict(stage).items()
    return _digest_values(
        {key: value for key, value in values if _KEYS_ADDED_LATER.get(key, _UNSET) != value}
    )


def select_input_files(build: BuildConfig, paths: Iterable[str]) -> list[str]:
    """Return the sorted paths of the files that the build depends on."""
    matches = compile_patterns(build.inputs or ("**",))
    return sorted(path for path in paths if matches(path))


def inputs_digest(build: BuildConfig, files: Mapping[str, str]) -> str:
    """Return a digest by which a build can be reused for another tree.

    ``files``: mode and digest of each file by path, as ``100644 ab12...``.
    """
    wanted = [[path, files[path]] for path in select_input_files(build, files)]
    keys = ("command", "output", "environment", "labels")
    return _digest_values({"files": wanted, **{key: getattr(build, key) for key in keys}})


def _digest_values(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def from_json(data: Mapping[str, Any]) -> PipelineConfig:
    """Return the pipeline of a row, the inverse of ``as_json``; unknown, newer keys are ignored."""
    build = data.get("build")
    return PipelineConfig(
        None if build is None else _restore(BuildConfig, build),
        tuple(_restore(Stage, each) for each in data.get("stages", [])),
        tuple(_restore(Level, each) for each in data.get("levels", [])),
        tuple(data.get("warnings", [])),
    )


def _restore(kind: Any, values: Mapping[str, Any]) -> Any:
    known = {key: _freeze(value) for key, value in values.items() if key in kind.__annotations__}
    for key, enum in (("mode", Mode), ("gate", Gate)):
        if key in known:
            known[key] = enum(known[key])
    return kind(**known)


def _freeze(value: Any) -> Any:
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def explain(config: PipelineConfig) -> list[str]:
    """Return lines that explain the pipeline, and its warnings."""
    return [
        *_explain_build(config.build),
        *(line for stage in config.stages for line in _explain_stage(stage)),
        *_explain_levels(config.levels),
        *(f"warning: {message}" for message in config.warnings),
    ]


def _explain_build(build: BuildConfig | None) -> list[str]:
    if build is None:
        return ["build: none; the tree is its own build"]
    on = f" on a host with {_format_names(build.labels, 'label')}" if build.labels else ""
    inputs = ", ".join(build.inputs) or "the whole tree"
    return [f"build: makes {build.output}{on}, again if one of these changes: {inputs}"]


def _explain_stage(stage: Stage) -> list[str]:
    needs = f"needs {', '.join(stage.needs)}" if stage.needs else "needs the build only"
    gate = ", and an approval" if stage.gate is Gate.MANUAL else ""
    tests = ", ".join(stage.tests) or "all tests"
    tags = f" with {_format_names(stage.tags, 'marker', ' or ')}" if stage.tags else ""
    return [f"stage {stage.name}: {needs}{gate}", f"  {tests}{tags}, {_explain_hosts(stage)}"]


def _explain_hosts(stage: Stage) -> str:
    labels = f" with {_format_names(stage.labels, 'label')}" if stage.labels else ""
    if stage.hosts == 1:
        return f"on 1 host{labels}"
    explanations = {
        Mode.EACH: f"all of them on each of {stage.hosts} hosts",
        Mode.SHARD: f"split over {stage.hosts} hosts",
        Mode.TOGETHER: f"on {stage.hosts} hosts together",
    }
    return explanations[stage.mode] + labels


def _explain_levels(levels: Iterable[Level]) -> list[str]:
    lines, below = [], GOOP
    for level in levels:
        lines.append(f"level {level.name}: {below}, and tagged {', '.join(level.stages)}")
        below = level.name
    return lines


def _format_names(names: tuple[str, ...], noun: str, joint: str = ", ") -> str:
    """Return names with a noun, as ``label gpu`` or ``labels gpu, linux``."""
    return f"{noun}{'s' if len(names) > 1 else ''} {joint.join(names)}"
