"""What a tree says of its build, stages and levels: those tables of its nosejobs.toml.

Owns their keys, checks, defaults and digests.  Whoever can push wrote the text, so nothing in it
is believed; hosts, sources and secrets are never taken from it.  Pure: text in, frozen values out.
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
from shell_runner.config import NAME, TABLES
from shell_runner.toml_document import Document, read
from shell_runner.validators import Validator, suggestion

from ..model import BUILD, GOOP
from .path_patterns import matcher

#: What each level wants beyond the one below it, unless the tree says otherwise.
PUBLISHED = ("unit", "smoke", "regression")
SHIP = (*PUBLISHED, "performance", "scalability", "resilience")
_MOST_STAGES, _MOST_HOSTS, _MOST_LEVELS = 200, 1000, 50
_LOST = {"never": 0, "once": 1}


class Mode(StrEnum):
    """What the hosts of a stage do."""

    #: The whole suite, on every host.
    EACH = "each"
    #: A share of the tests, by duration.
    SHARD = "shard"
    #: All at once, each told its peers.
    TOGETHER = "together"


class Gate(StrEnum):
    """What opens a stage beside its needs."""

    NONE = "none"
    MANUAL = "manual"


@dataclass(frozen=True)
class BuildConfig:
    """``[build]``."""

    command: str
    #: File or folder in the tree; ``.``: all of it.
    output: str
    #: Patterns of what it depends on; empty: the whole tree.
    inputs: tuple[str, ...] = ()
    timeout: float = 600.0
    labels: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Stage:
    """``[stages.NAME]``."""

    name: str
    #: Names or patterns of tests; empty: all of the tree.
    tests: tuple[str, ...] = ()
    #: Of these, those with one of the tags; empty: all.
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
    #: How often the job of a lost host is given to another one.
    lost: int = 1
    environment: tuple[tuple[str, str], ...] = ()


def build_stage(build: BuildConfig) -> Stage:
    """The build command as the stage that it is: one test, on one host."""
    return Stage(
        BUILD,
        labels=build.labels,
        timeout=build.timeout,
        job_timeout=build.timeout,
        environment=build.environment,
    )


@dataclass(frozen=True)
class Level:
    """A step of promotion: a build has it with all these tags, and those of the steps below."""

    name: str
    stages: tuple[str, ...]


LEVELS = (Level("published", PUBLISHED), Level("ship", SHIP))


@dataclass(frozen=True)
class Tree:
    """The config of a tree."""

    #: None: the tree is its own build.
    build: BuildConfig | None = None
    stages: tuple[Stage, ...] = ()
    levels: tuple[Level, ...] = LEVELS
    #: What is allowed and likely not meant, with file and line.
    warnings: tuple[str, ...] = ()

    def stage(self, name: str) -> Stage | None:
        """The stage with this name, if there is one."""
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def data(self) -> dict[str, Any]:
        """Plain JSON values of all of it, for a row; ``from_data`` takes them back."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found


def parse(text: str | bytes, name: str = NAME) -> Tree:
    """Return the checked config of a text; an empty one stands for a tree without the file.

    BadConfig names file, line and key.
    """
    return from_document(read(name, text))


def from_document(doc: Document) -> Tree:
    """Return the checked config of a tree; BadConfig names file, line and key."""
    doc.check_keys((), TABLES)
    stages, levels = _stages(doc), _levels(doc)
    _check_needs(doc, stages)
    warnings = (*_idle_warning(doc, stages), *_level_warnings(doc, stages, levels))
    return Tree(_build(doc), stages, levels, warnings)


# -- [build] and [stages.NAME] ---------------------------------------------------------------

_VARIABLES = validators.variables(validators.MAX_TEXT_CHARS, reserved="NOSEJOBS_")


def _environment(value: Any) -> tuple[tuple[str, str], ...]:
    """Sort variables: their order in the file does not change a digest."""
    return tuple(sorted(_VARIABLES(value)))


_BUILD: Mapping[str, Validator] = {
    "command": validators.command(empty=False),
    "output": validators.path_in_tree,
    "inputs": validators.list_of(validators.path_in_tree, "patterns of paths", 1),
    "timeout": validators.duration(),
    "labels": validators.list_of(validators.label, "labels"),
    "environment": _environment,
}


def _lost(value: Any) -> int:
    found = _LOST.get(value, value) if isinstance(value, str) else value
    if type(found) is not int or not 0 <= found <= 100:
        raise validators.InvalidValue('"never", "once", or a whole number up to 100')
    return found


_STAGE: Mapping[str, Validator] = {
    "tests": validators.list_of(validators.line(), "names of tests (leave it out for all)", 1),
    "tags": validators.list_of(validators.label, "tags"),
    "install": validators.command(),
    "labels": validators.list_of(validators.label, "labels"),
    "hosts": validators.whole(1, _MOST_HOSTS),
    "mode": validators.one_of(*Mode),
    "needs": validators.list_of(validators.name, "names of stages"),
    "gate": validators.one_of(*Gate),
    "timeout": validators.duration(),
    "job_timeout": validators.duration(),
    "retries": validators.whole(0, 100),
    "lost": _lost,
    "environment": _environment,
}

_RESERVED = {BUILD: "the build command itself is the stage of that name"}


def _build(doc: Document) -> BuildConfig | None:
    if "build" not in doc.data:
        return None
    found = doc.check_table(("build",), _BUILD)
    for key in ("command", "output"):
        if key not in found:
            raise doc.error(["build"], f"has no {key!r}, which it needs")
    return BuildConfig(**found)


def _stages(doc: Document) -> tuple[Stage, ...]:
    """In the order of the file; one without ``needs`` needs the one before it."""
    table = doc.table(["stages"])
    if len(table) > _MOST_STAGES:
        raise doc.error(["stages"], f"must be at most {_MOST_STAGES}, not {len(table)}")
    found: list[Stage] = []
    for name in table:
        stage = _stage(doc, name)
        if "needs" not in table[name] and found:
            stage = replace(stage, needs=(found[-1].name,))
        found.append(stage)
    return tuple(found)


def _stage(doc: Document, name: str) -> Stage:
    path = ("stages", name)
    doc.check_name(path, _RESERVED)
    values = doc.check_table(path, _STAGE)
    mode, gate = Mode(values.pop("mode", "each")), Gate(values.pop("gate", "none"))
    stage = Stage(name, mode=mode, gate=gate, **values)
    if stage.mode is Mode.TOGETHER and stage.hosts < 2:
        raise doc.error([*path, "mode"], f"is together, which takes 2 hosts, not {stage.hosts}")
    return stage


def _check_needs(doc: Document, stages: Iterable[Stage]) -> None:
    names = [stage.name for stage in stages]
    for stage in stages:
        for need in stage.needs:
            if need not in names:
                path = ["stages", stage.name, "needs"]
                raise doc.error(path, f"names no stage: {need!r}{suggestion(need, names)}")
    try:
        TopologicalSorter({stage.name: stage.needs for stage in stages}).prepare()
    except CycleError as error:
        # graphlib goes from what is needed to what needs it.
        circle = list(reversed(error.args[1]))
        path = ["stages", circle[0], "needs"]
        raise doc.error(path, f"go in a circle: {' needs '.join(circle)}") from None


def _idle_warning(doc: Document, stages: tuple[Stage, ...]) -> tuple[str, ...]:
    if stages:
        return ()
    return (f"{doc.name}: there are no [stages.NAME]: nothing is tested, builds stay {GOOP}",)


# -- [levels] --------------------------------------------------------------------------------

_TAGS = validators.list_of(validators.name, "names of stages", 1)


def _levels(doc: Document) -> tuple[Level, ...]:
    """In the order of the file, lowest first; the usual ones without the table."""
    if "levels" not in doc.data:
        return LEVELS
    table = doc.table(["levels"])
    if len(table) > _MOST_LEVELS:
        raise doc.error(["levels"], f"must be at most {_MOST_LEVELS}, not {len(table)}")
    for name in table:
        doc.check_name(("levels", name), {GOOP: "every build begins there"})
    return tuple(
        Level(name, doc.check_value(("levels", name), _TAGS, value))
        for name, value in table.items()
    )


def _level_warnings(
    doc: Document, stages: tuple[Stage, ...], levels: Iterable[Level]
) -> tuple[str, ...]:
    """Of levels that no build can reach on its own.

    A level can name the usual stages before there are such: then it is out of reach, which is
    safe.  Another name that is no stage is a mistake.
    """
    names = [stage.name for stage in stages]
    found = []
    for level in levels:
        missing = [each for each in level.stages if each not in names]
        path = ["levels", level.name]
        for each in missing:
            if each not in SHIP:
                raise doc.error(path, f"names no stage: {each!r}{suggestion(each, names)}")
        if missing and names:
            what = f"there is no stage {', '.join(missing)}"
            usual = "" if "levels" in doc.data else "; say in [levels] what it needs"
            found.append(doc.message(path, f"is out of reach but by hand: {what}{usual}"))
    return tuple(found)


# -- digests, rows, words --------------------------------------------------------------------


_NEVER = object()
#: Keys of stages that came after the first version, each with the value that means what was meant
#: without it: tags that are there already go on to count.
_LATER: Mapping[str, object] = {}


@lru_cache(maxsize=512)
def stage_digest(stage: Stage) -> str:
    """Names a stage as it is written: a tag that holds another one says nothing of it."""
    values = asdict(stage).items()
    return _digest({key: value for key, value in values if _LATER.get(key, _NEVER) != value})


def input_files(build: BuildConfig, paths: Iterable[str]) -> list[str]:
    """Those of the tree's files that the build depends on, in order."""
    matches = matcher(build.inputs or ("**",))
    return sorted(path for path in paths if matches(path))


def inputs_digest(build: BuildConfig, files: Mapping[str, str]) -> str:
    """Key for reuse.  ``files``: path -> what names its mode and contents (``100644 ab12...``)."""
    wanted = [[path, files[path]] for path in input_files(build, files)]
    keys = ("command", "output", "environment", "labels")
    return _digest({"files": wanted, **{key: getattr(build, key) for key in keys}})


def _digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def from_data(data: Mapping[str, Any]) -> Tree:
    """The config of a row, as ``Tree.data`` wrote it; keys of a newer version are left alone."""
    build = data.get("build")
    return Tree(
        None if build is None else _restored(BuildConfig, build),
        tuple(_restored(Stage, each) for each in data.get("stages", [])),
        tuple(_restored(Level, each) for each in data.get("levels", [])),
        tuple(data.get("warnings", [])),
    )


def _restored(kind: Any, values: Mapping[str, Any]) -> Any:
    known = {key: _frozen(value) for key, value in values.items() if key in kind.__annotations__}
    for key, enum in (("mode", Mode), ("gate", Gate)):
        if key in known:
            known[key] = enum(known[key])
    return kind(**known)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def explain(tree: Tree) -> list[str]:
    """What the config means, line by line, and what of it is likely not meant."""
    return [
        *_explain_build(tree.build),
        *(line for stage in tree.stages for line in _explain_stage(stage)),
        *_explain_levels(tree.levels),
        *(f"warning: {words}" for words in tree.warnings),
    ]


def _explain_build(build: BuildConfig | None) -> list[str]:
    if build is None:
        return ["build: none; the tree is its own build"]
    on = f" on a host with {_counted(build.labels, 'label')}" if build.labels else ""
    inputs = ", ".join(build.inputs) or "the whole tree"
    return [f"build: makes {build.output}{on}, anew if one of these changes: {inputs}"]


def _explain_stage(stage: Stage) -> list[str]:
    needs = f"needs {', '.join(stage.needs)}" if stage.needs else "needs the build only"
    gate = ", and an approval" if stage.gate is Gate.MANUAL else ""
    tests = ", ".join(stage.tests) or "all tests"
    tags = f" with {_counted(stage.tags, 'tag', ' or ')}" if stage.tags else ""
    return [f"stage {stage.name}: {needs}{gate}", f"  {tests}{tags}, {_where(stage)}"]


def _where(stage: Stage) -> str:
    labels = f" with {_counted(stage.labels, 'label')}" if stage.labels else ""
    if stage.hosts == 1:
        return f"on 1 host{labels}"
    how = {
        Mode.EACH: f"all of them on each of {stage.hosts} hosts",
        Mode.SHARD: f"split over {stage.hosts} hosts",
        Mode.TOGETHER: f"on {stage.hosts} hosts together",
    }
    return how[stage.mode] + labels


def _explain_levels(levels: Iterable[Level]) -> list[str]:
    found, below = [], GOOP
    for level in levels:
        found.append(f"level {level.name}: {below}, and tagged {', '.join(level.stages)}")
        below = level.name
    return found


def _counted(words: tuple[str, ...], noun: str, joint: str = ", ") -> str:
    """``label gpu``, ``labels gpu, linux``."""
    return f"{noun}{'s' if len(words) > 1 else ''} {joint.join(words)}"
