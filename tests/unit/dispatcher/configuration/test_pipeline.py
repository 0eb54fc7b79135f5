"""Tests of [build], [stages] and [levels] in nosejobs.toml, which may be hostile."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.configuration.pipeline import (
    DEFAULT_LEVELS,
    SHIP_STAGES,
    BuildConfig,
    Gate,
    Level,
    Mode,
    PipelineConfig,
    Stage,
    explain,
    from_json,
    inputs_digest,
    parse,
    select_input_files,
    stage_digest,
)
from shell_runner.errors import InvalidConfig

FULL = """\
[build]
command = "make dist\\nmake check"
output = "./dist/"
inputs = ["src/**", "Makefile"]
timeout = "10m"
labels = ["linux"]
environment = { B = "2", A = "1" }

[stages.unit]
tests = ["tests/unit"]
tags = ["fast", "net"]
install = "tar xf dist.tar"
environment = { LANG = "C" }

[stages.smoke]
labels = ["linux", "gpu"]
hosts = 3
mode = "shard"
timeout = 60
job_timeout = "1h"
retries = 2
lost = "never"

[stages.lint]
needs = []
lost = 5

[stages.resilience]
needs = ["unit", "lint"]
hosts = 2
mode = "together"
gate = "manual"

[levels]
good = ["unit", "smoke"]
best = ["lint", "resilience"]

[tests]
timeout = 3
[hosts.anything]
spec = "is not read here"
"""


def test_all_keys() -> None:
    pipeline = parse(FULL)
    assert pipeline.build == BuildConfig(
        "make dist\nmake check", "dist", ("src/**", "Makefile"), 600.0, ("linux",),
        (("A", "1"), ("B", "2")),
    )  # fmt: skip
    assert pipeline.stages == (
        Stage("unit", ("tests/unit",), ("fast", "net"), "tar xf dist.tar",
              environment=(("LANG", "C"),)),
        Stage("smoke", labels=("linux", "gpu"), hosts=3, mode=Mode.SHARD, needs=("unit",),
              timeout=60.0, job_timeout=3600.0, retries=2, lost=0),
        Stage("lint", lost=5),
        Stage("resilience", needs=("unit", "lint"), hosts=2, mode=Mode.TOGETHER, gate=Gate.MANUAL),
    )  # fmt: skip
    assert pipeline.levels == (
        Level("good", ("unit", "smoke")),
        Level("best", ("lint", "resilience")),
    )
    assert pipeline.warnings == ()


def test_a_tree_that_says_nothing_is_its_own_build() -> None:
    pipeline = parse("")
    assert (pipeline.build, pipeline.stages, pipeline.levels) == (None, (), DEFAULT_LEVELS)
    (warning,) = pipeline.warnings
    assert "builds stay goop" in warning


def test_a_stage_needs_the_one_before_it() -> None:
    pipeline = parse("[stages.a]\n[stages.b]\n[stages.c]\nneeds = []\n[stages.d]\n")
    assert [stage.needs for stage in pipeline.stages] == [(), ("a",), (), ("c",)]


def test_levels_that_are_out_of_reach_are_a_warning() -> None:
    first, second = parse("\n[stages.unit]\n[stages.smoke]\n").warnings
    assert first.startswith(
        "nosejobs.toml:1: levels.published can only be reached by tags given by hand: there"
    )
    hint = "; list its stages in [levels]"
    assert first.endswith(f"no stage regression{hint}")
    assert second.endswith(f"no stage regression, performance, scalability, resilience{hint}")
    (own,) = parse("[stages.unit]\n[levels]\nx = ['unit']\ny = ['smoke']").warnings
    reason = "can only be reached by tags given by hand: there is no stage smoke"
    assert own == f"nosejobs.toml:4: levels.y {reason}"


def test_the_six_stages_are_no_warning() -> None:
    assert parse("".join(f"[stages.{name}]\n" for name in SHIP_STAGES)).warnings == ()


MANY = "".join(f"[stages.s{number}]\n" for number in range(201))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # what is not known
        ("\n[stage.a]\n", "2: unknown key 'stage'; did you mean 'stages'?"),
        ("[stages.a]\nneed = []", "2: unknown key 'stages.a.need'; did you mean 'nee"),
        ("[stages.a]\n[stages.b]\nx=1", "3: unknown key 'stages.b.x'; known: enviro"),
        ("[build]\ncommand='x'\noutputs='y'", "3: unknown key 'build.outputs'; did you"),
        # what is missing, what is no table
        ("\n[build]\noutput = 'x'", "2: build has no 'command'"),
        ("[build]\ncommand = 'x'", "1: build has no 'output'"),
        ("build = 1", "1: build must be a table, not 1"),
        ("stages = []", "1: stages must be a table, not a list of 0"),
        ("\nstages.a = 3", "2: stages.a must be a table, not 3"),
        ("levels = true", "1: levels must be a table, not true"),
        # names
        ("[stages.'a/b']", "1: stages.'a/b' has an invalid name: a name has 1 to 64 letters"),
        ("[stages.'..']", "1: stages.'..' has an invalid name"),
        ("[stages.a..b]", "1: Invalid initial character"),
        ("[stages.'a..b']", "1: stages.'a..b' has an invalid name"),
        ("[stages.-a]", "1: stages.-a has an invalid name"),
        ("[stages.'']", "1: stages.'' has an invalid name"),
        ('[stages."a\\n"]', "1: stages.'a\\n' has an invalid name"),
        ('[stages."\\u001b[2J"]', "1: stages.'\\x1b[2J' has an invalid name"),
        ('[stages."\\u202e"]', "1: stages.'\\u202e' has an invalid name"),
        ("[stages.é]", "1: Invalid initial character"),
        (f"[stages.{'a' * 65}]", "1: stages.'aaaaa"),
        ("[stages.build]", "1: stages.build has a reserved name: the stage of that name is t"),
        ("[levels]\ngoop = ['a']", "2: levels.goop has a reserved name: every build starts"),
        ("[levels]\n'a b' = ['a']", "2: levels.'a b' has an invalid name"),
        # needs and levels
        ("[stages.a]\n[stages.b]\nneeds=['aa']", "3: stages.b.needs names no stage: 'aa'; did you"),
        ("[stages.a]\nneeds = ['a']", "2: stages.a.needs has a cycle: a needs a"),
        (
            "[stages.a]\nneeds=['b']\n[stages.b]\nneeds=['c']\n[stages.c]\nneeds=['a']\n",
            "2: stages.a.needs has a cycle: a needs b needs c needs a",
        ),
        ("[stages.uni]\n[levels]\nx=['uny']", "3: levels.x names no stage: 'uny'; did you mean"),
        ("[levels]\nx = []", "2: levels.x must be a list of 1 to 1000 names of stages"),
        ("[levels]\nx = 'unit'", "2: levels.x must be a list of 1 to 1000 names of stages, not 'u"),
        # kinds and ranges
        ("[stages.a]\nhosts = 0", "2: stages.a.hosts must be a whole number, 1 to 1000, not 0"),
        ("[stages.a]\nhosts = true", "2: stages.a.hosts must be a whole number, 1 to 1000, not tr"),
        ("[stages.a]\nhosts = 1.0", "2: stages.a.hosts must be a whole number, 1 to 1000, not 1.0"),
        ("[stages.a]\nhosts = 0x" + "f" * 9000, "2: stages.a.hosts must be a whole number, 1 to 1"),
        ("[stages.a]\nmode = 'all'", '2: stages.a.mode must be "each" or "shard" or "together"'),
        ("[stages.a]\nmode = {}", '2: stages.a.mode must be "each" or "shard" or "together", not'),
        ("[stages.a]\nmode = 'together'", "2: stages.a.mode is together, which takes 2 hosts, not"),
        ("[stages.a]\ngate = true", '2: stages.a.gate must be "none" or "manual", not true'),
        ("[stages.a]\ntimeout = 0", "2: stages.a.timeout must be a time above 0 and at most a ye"),
        ("[stages.a]\ntimeout = -1", "2: stages.a.timeout must be a time above 0"),
        ("[stages.a]\ntimeout = inf", "2: stages.a.timeout must be a time above 0"),
        ("[stages.a]\ntimeout = nan", "2: stages.a.timeout must be a time above 0"),
        ("[stages.a]\ntimeout = 1e400", "2: stages.a.timeout must be a time above 0"),
        ("[stages.a]\ntimeout = '9999d'", "2: stages.a.timeout must be a time above 0"),
        ("[stages.a]\ntimeout = '1 year'", "2: stages.a.timeout must be a time above 0"),
        ("[stages.a]\njob_timeout = []", "2: stages.a.job_timeout must be a time above 0"),
        ("[stages.a]\nretries = 101", "2: stages.a.retries must be a whole number, 0 to 100"),
        ("[stages.a]\nlost = 'twice'", '2: stages.a.lost must be "never", "once", or a whole numb'),
        ("[stages.a]\nlost = -1", '2: stages.a.lost must be "never", "once", or a whole number'),
        ("[stages.a]\ntests = []", "2: stages.a.tests must be a list of 1 to 1000 names of tests"),
        ("[stages.a]\ntests = [1]", "2: stages.a.tests must be a list of names of tests (leave it"),
        ('[stages.a]\ntests = ["a\\u0000"]', "2: stages.a.tests must be a list of names of tests"),
        ("[stages.a]\nlabels = ['a b']", "2: stages.a.labels must be a list of labels; 'a b' i"),
        ("[stages.a]\ntags = [['a']]", "2: stages.a.tags must be a list of markers; a list of 1"),
        ('[stages.a]\ninstall = "a\\u0000"', "2: stages.a.install must be a command of at most"),
        (f"[stages.a]\ninstall = '{'x' * 65537}'", "2: stages.a.install must be a command of at"),
        ("[stages.a]\nenvironment = ['A']", "2: stages.a.environment must be a table of at most"),
        ("[stages.a]\nenvironment = {'A=B' = ''}", "2: stages.a.environment must be a table of va"),
        ("[stages.a]\nenvironment = {A = 1}", "2: stages.a.environment must be a table of texts;"),
        ("[stages.a.environment]\nNOSEJOBS_X = ''", "1: stages.a.environment must be without NOSE"),
        ("[build]\noutput='x'\ncommand=' '", "3: build.command must be a command that is"),
        ("[build]\ncommand='x'\noutput='../x'", "3: build.output must be a path inside of the tre"),
        ("[build]\ncommand='x'\noutput='a/../../x'", "3: build.output must be a path inside of th"),
        ("[build]\ncommand='x'\noutput='/etc'", "3: build.output must be a path inside of the tre"),
        ("[build]\ncommand='x'\noutput='~/x'", "3: build.output must be a path inside of the tree"),
        ("[build]\ncommand='x'\noutput=''", "3: build.output must be a text of one line"),
        ("[build]\ncommand='x'\noutput='x'\ninputs=['/']", "4: build.inputs must be a list"),
        # too much of it
        (MANY, "1: stages must be at most 200, not 201"),
        ("[levels]\n" + "".join(f"l{n} = []\n" for n in range(51)), "1: levels must be at most 50"),
        ("[stages.a]\ntests = [" + "'a'," * 1001 + "]", "2: stages.a.tests must be a list of 1 to"),
        ("[stages.a]\n" + "x" * 5000 + " = 1", "2: unknown key \"stages.a.'xxxxxxx"),
    ],
    ids=lambda value: value[:40] if len(value) < 2000 else "large",
)  # fmt: skip
def test_mistakes_name_file_line_and_key(text: str, words: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse(text)
    assert str(caught.value)[: len(words) + 14] == f"nosejobs.toml:{words}"
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


JUNK = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.dates(),
        st.sampled_from(["a", "together", "manual", "never", "1h"]),
    ),
    lambda each: st.one_of(
        st.lists(each, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=3), st.sampled_from(["a", "needs"])), each),
    ),
    max_leaves=6,
)  # fmt: skip
TABLES: dict[str, Any] = {"build": BuildConfig, "stages": Stage, "levels": Level}


@given(st.data())
def test_whatever_is_written_is_refused_in_words_or_understood(data: st.DataObject) -> None:
    table = data.draw(st.sampled_from(["build", "stages.a", "levels"]))
    kind = TABLES[table.partition(".")[0]]
    fields = st.sampled_from([each.name for each in dataclasses.fields(kind)])
    lines = [f"[{table}]"]
    for key, value in data.draw(st.dictionaries(fields, JUNK)).items():
        lines.append(f"{key} = {toml(value)}")
    try:
        pipeline = parse("\n".join(lines))
    except InvalidConfig as error:
        messages = [str(error)]
        pipeline = PipelineConfig()
    else:
        messages = explain(pipeline)
    assert all(each.isprintable() for each in messages)
    assert from_json(json.loads(json.dumps(pipeline.as_json))) == pipeline


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, (bool, str)):
        return json.dumps(value)
    return str(value).lower() if value is not None else "''"


def test_a_row_keeps_all_of_it() -> None:
    pipeline = parse(FULL)
    row = json.loads(json.dumps(pipeline.as_json))
    assert from_json(row) == pipeline
    assert from_json(parse("").as_json) == parse("")
    row["stages"][0]["of_a_newer_version"] = 1
    assert from_json(row) == pipeline


@pytest.mark.parametrize("field", [each.name for each in dataclasses.fields(Stage)])
def test_the_digest_of_a_stage_is_that_of_every_key(field: str) -> None:
    stage = parse(FULL).stages[1]
    now = getattr(stage, field)
    others = {Mode.SHARD: Mode.EACH, Gate.NONE: Gate.MANUAL}
    if isinstance(now, (Mode, Gate)):
        value: Any = others[now]
    else:
        value = (*now, ("x", "y")) if isinstance(now, tuple) else now * 2 + type(now)(1)
    changed = dataclasses.replace(stage, **{field: value})
    assert stage_digest(changed) != stage_digest(stage)


def test_the_digest_of_a_stage_lasts() -> None:
    """Tags in databases contain the digest, so a new key with a default must not change it."""
    expected = "1d4ac7483d07bbdd2fe26c6133fbd6cc7fb5dcbd8b370b4e6d5e5b93fd52254e"
    assert stage_digest(Stage("unit", tests=("tests/unit",))) == expected


FILES = {"src/a.c": "100644 1", "src/x/b.c": "100755 2", "Makefile": "100644 3", "README": "4"}


def test_the_inputs_of_a_build() -> None:
    build = BuildConfig("make", "dist", ("src/**", "Makefile"))
    assert select_input_files(build, FILES) == ["Makefile", "src/a.c", "src/x/b.c"]
    assert select_input_files(BuildConfig("make", "dist"), FILES) == sorted(FILES)
    key = inputs_digest(build, FILES)
    assert key == inputs_digest(build, dict(reversed(FILES.items())))
    assert key == inputs_digest(build, {**FILES, "README": "5", "docs/x": "6"})
    assert key == inputs_digest(dataclasses.replace(build, timeout=1.0), FILES)


@pytest.mark.parametrize(
    ("change", "files"),
    [
        ({}, {**FILES, "src/a.c": "100755 1"}),
        ({}, {**FILES, "src/new.c": "100644 1"}),
        ({}, {path: text for path, text in FILES.items() if path != "Makefile"}),
        ({"command": "make all"}, FILES),
        ({"output": "out"}, FILES),
        ({"labels": ("arm",)}, FILES),
        ({"environment": (("A", "1"),)}, FILES),
    ],
)
def test_other_inputs_make_another_build(change: dict[str, Any], files: dict[str, str]) -> None:
    build = BuildConfig("make", "dist", ("src/**", "Makefile"))
    assert inputs_digest(dataclasses.replace(build, **change), files) != inputs_digest(build, FILES)


def test_explained() -> None:
    assert explain(parse(FULL)) == [
        "build: makes dist on a host with label linux, again if one of these changes: "
        "src/**, Makefile",
        "stage unit: needs the build only",
        "  tests/unit with markers fast or net, on 1 host",
        "stage smoke: needs unit",
        "  all tests, split over 3 hosts with labels linux, gpu",
        "stage lint: needs the build only",
        "  all tests, on 1 host",
        "stage resilience: needs unit, lint, and an approval",
        "  all tests, on 2 hosts together",
        "level good: goop, and tagged unit, smoke",
        "level best: good, and tagged lint, resilience",
    ]
    assert explain(PipelineConfig())[0] == "build: none; the tree is its own build"
    assert explain(parse(""))[-1].startswith("warning: nosejobs.toml: there are no [stages.NAME]")


def test_two_hundred_stages_are_understood() -> None:
    text = MANY.removesuffix("[stages.s200]\n")
    assert len(parse(text).stages) == 200
