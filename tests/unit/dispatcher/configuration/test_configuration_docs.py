"""Tests of the page about both configuration files: its examples are valid, its keys complete."""

import dataclasses
import re
from pathlib import Path

import pytest

from dispatcher.configuration import pipeline, settings
from dispatcher.hosts.package_rows import read_measurements
from shell_runner.remote.formats import tap
from shell_runner.toml_document import MAX_CHARS
from shell_runner.validators import duration

DOCS = Path(__file__).parents[4] / "docs"
PAGE = (DOCS / "dispatcher-config.md").read_text("utf-8")


def example(name: str) -> str:
    (text,) = re.findall(rf"```toml\n(# {name}\n.*?)```", PAGE, re.DOTALL)
    return str(text)


def keys(heading: str) -> dict[str, str]:
    """Return the default by key in the table below a heading."""
    (section,) = re.findall(rf"### `\[{heading}\]`\n(.*?)(?=\n##)", PAGE, re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*?) ?\|$", section, re.MULTILINE)
    return dict(rows)


def test_the_example_of_a_tree() -> None:
    tree = pipeline.parse(example("nosejobs.toml"))
    assert [stage.name for stage in tree.stages] == list(pipeline.SHIP_STAGES)
    assert tree.warnings == ()
    assert tree.build is not None
    assert {stage.mode for stage in tree.stages} == set(pipeline.Mode)


def test_the_example_of_the_dispatcher() -> None:
    parsed = settings.parse(example("dispatcher.toml"), Path("/"))
    assert settings.parse("", Path("/var/lib")).port == parsed.port
    assert [source.kind for source in parsed.sources] == ["git", "directory"]
    assert not [line for line in settings.explain(parsed) if line.startswith("warning")]


@pytest.mark.parametrize(
    ("heading", "value", "besides"),
    [
        ("build", pipeline.BuildConfig, {}),
        ("stages.NAME", pipeline.Stage, {"name": None}),
        ("dispatcher", settings.Settings, dict.fromkeys(
            ["address", "port", "sources", "hosts", "pools", "retention"], "listen")),
        ("sources.NAME", settings.Source, {"name": None}),
        ("pools.NAME", settings.Pool, {"name": None}),
        ("retention", settings.Retention, {}),
    ],
)  # fmt: skip
def test_every_key_is_told(heading: str, value: type, besides: dict[str, str | None]) -> None:
    names = {each.name for each in dataclasses.fields(value)}  # type: ignore[arg-type]
    wanted = {besides.get(name, name) for name in names} - {None}
    assert set(keys(heading)) == wanted


SIMPLE = [
    ("build", pipeline.BuildConfig), ("stages.NAME", pipeline.Stage), ("pools.NAME", settings.Pool),
    ("retention", settings.Retention), ("dispatcher", settings.Settings),
]  # fmt: skip


@pytest.mark.parametrize(("heading", "value"), SIMPLE)
def test_defaults_are_those_that_are_told(heading: str, value: type) -> None:
    documented = {key: text.strip('`" ') for key, text in keys(heading).items()}
    checked = 0
    for each in dataclasses.fields(value):  # type: ignore[arg-type]
        text = documented.get(each.name, "")
        if isinstance(each.default, (int, float)) and text not in ("once", ""):
            seconds = duration()(text) if text.endswith("d") else float(text)
            assert seconds == each.default, each.name
            checked += 1
    assert checked


def test_the_levels_that_are_meant_without_any() -> None:
    (levels,) = re.findall(r"^    (published = .*\n    ship = .*)$", PAGE, re.MULTILINE)
    assert pipeline.parse(f"[levels]\n{levels}\n").levels == pipeline.DEFAULT_LEVELS


def test_the_bounds_are_those_that_are_told() -> None:
    assert f"{MAX_CHARS >> 10} K characters" in PAGE


def test_the_numbers_of_the_example() -> None:
    page = (DOCS / "outputs.md").read_text("utf-8")
    (text,) = re.findall(r"## Numbers.*?```\n(.*?)```", page, re.DOTALL)
    reader = tap.Reader()
    reader.feed(text.encode())
    (case,) = reader.close().cases
    assert read_measurements(case, tap.NAME) == {
        "rate": (8_010_140.0, "words/s"), "memory.peak": (12.5, "MB"),
    }  # fmt: skip
