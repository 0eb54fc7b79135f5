"""Tests of job files and options: what they may contain, and the errors for mistakes."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shell_runner.errors import InvalidConfig
from shell_runner.jobs.jobfile import KEYS, JobDescription, describe_job, read_jobfile
from shell_runner.remote.protocol.job import JobConfig, parse_config

ROOT = Path(__file__).parents[4]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t").mkdir()
    (tmp_path / "b").mkdir()
    return tmp_path


def job(folder: Path, text: str, **options: Any) -> JobDescription:
    path = folder / "job.toml"
    path.write_text(text)
    return describe_job(path, options, {"SECRET": "s3", "NOSEJOBS_NOTIFY_SECRET": "usual"})


def test_all_of_it(folder: Path) -> None:
    description = job(
        folder,
        """
tests = "t"
select = ["net/*"]
build = "b"
include = ["*.bin"]
exclude = ["old/"]
name = "nightly"
labels = ["a", "b", "a"]
priority = -3
install = "make install"
install_timeout = "10m"
pass_env = ["CI_*"]
slots = 4
timeout = 30
job_timeout = "2h"
retries = 1
attempts = 2
keep_workspace = "failed"
grace = 0.5
keep_output = "64 kB"
artifacts = "1GiB"
merge = true
notify = "https://example.org/hook"
notify_secret_env = "SECRET"
[environment]
A = "1"
""",
    )
    config = JobConfig(
        "make install", 600.0, (("A", "1"),), ("CI_*",), 4, 7200.0, 1, 2, "failed", 0.5,
        64_000, 1 << 30, True, (), "https://example.org/hook", "s3",
    )  # fmt: skip
    assert description == JobDescription(
        folder / "t", folder / "b", ("net/*",), 30.0, config, "nightly", ("a", "b"), -3,
        ("*.bin",), ("old/",),
    )  # fmt: skip


def test_nothing_but_tests_is_a_job(folder: Path) -> None:
    assert job(folder, 'tests = "t"') == JobDescription(folder / "t")


def test_json_says_the_same(folder: Path) -> None:
    path = folder / "job.json"
    path.write_text(json.dumps({"tests": "t", "environment": {"A": "1"}, "timeout": "1m"}))
    text = 'tests = "t"\ntimeout = 60\nenvironment = {A = "1"}'
    assert describe_job(path, {}, {}) == job(folder, text)


def test_options_win_and_lists_grow(folder: Path) -> None:
    text = 'tests = "t"\nname = "a"\nlabels = ["x"]\nenvironment = {A = "1", B = "1"}'
    parsed = job(folder, text, name="b", labels=("y",), environment={"B": "2"}, job_timeout="1m")
    assert (parsed.name, parsed.labels, parsed.config.timeout) == ("b", ("x", "y"), 60.0)
    assert parsed.config.environment == (("A", "1"), ("B", "2"))


def test_options_are_enough(folder: Path) -> None:
    assert describe_job(None, {"tests": str(folder / "t")}, {}) == JobDescription(folder / "t")


def test_the_usual_secret_needs_an_address(folder: Path) -> None:
    assert job(folder, 'tests = "t"').config.secret == ""
    assert job(folder, 'tests = "t"\nnotify = "http://h/"').config.secret == "usual"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('test = "t"', "unknown key 'test'; did you mean 'tests'?"),
        ("color = 1", "unknown key 'color'; known: artifacts, attempts"),
        ("slots = -1", "slots must be a whole number, 0 to 1024, not -1"),
        ("slots = true", "slots must be a whole number, 0 to 1024, not true"),
        ("attempts = 0", "attempts must be a whole number, 1 to 100, not 0"),
        ('timeout = "soon"', "timeout must be a time above 0 and at most a year, as"),
        ("timeout = 0", "timeout must be a time above 0"),
        ("timeout = nan", "timeout must be a time above 0 and at most a year"),
        ('job_timeout = "400d"', "job_timeout must be a time of 0 or more and at most a year"),
        ('keep_workspace = "yes"', 'keep_workspace must be "never" or "failed" or "always"'),
        ('labels = "x"', "labels must be a list of at most 50 texts, not 'x'"),
        ('labels = [""]', "labels must be a list of texts; '' is not a text of one line"),
        ('name = "a\\nb"', "name must be a text of one line"),
        ("environment = {A = 1}", "environment must be a table of texts; A is 1"),
        ('environment = {"A-B" = "1"}', "A-B is not the name of a variable"),
        ('pass_env = ["A B"]', "pass_env must be a list of names of variables"),
        ('notify = "ftp://x"', "notify must be an http:// or https:// address"),
        ('notify_secret_env = "$X"', "notify_secret_env must be the name of a variable"),
        ('artifacts = "much"', 'artifacts must be a size as "4GiB"'),
        ('merge = "no"', "merge must be true or false, not 'no'"),
        ('build = "nowhere"', "nowhere does not exist"),
        ('notify_secret_env = "UNSET"\nnotify = "http://h/"', "the variable UNSET is not set"),
        ("slots = ", "Invalid value"),
    ],
)
def test_a_mistake_names_file_and_key(folder: Path, line: str, words: str) -> None:
    text = line if line.startswith(("test =", "slots = \n")) else f'tests = "t"\n{line}'
    with pytest.raises(InvalidConfig) as caught:
        job(folder, text)
    assert words in str(caught.value)
    assert str(folder / "job.toml") in str(caught.value)
    assert line.partition(" ")[0] in str(caught.value) or "Invalid" in words


def test_a_mistake_in_an_option_names_it(folder: Path) -> None:
    with pytest.raises(InvalidConfig, match="--job-timeout must be a time"):
        describe_job(None, {"tests": str(folder / "t"), "job_timeout": "x"}, {})
    with pytest.raises(InvalidConfig, match="--tests is missing"):
        describe_job(None, {}, {})


@pytest.mark.parametrize("text", ["[]", "3", '"x"', "nul", "{" * 100_000])
def test_json_that_is_no_job(folder: Path, text: str) -> None:
    path = folder / "job.json"
    path.write_text(text)
    with pytest.raises(InvalidConfig, match=r"job\.json: "):
        read_jobfile(path)


def test_a_file_that_is_not_there(folder: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"no\.toml: No such file"):
        read_jobfile(folder / "no.toml")


def test_every_key_of_a_hosts_config_can_be_written() -> None:
    """The client sets the values of ``secret`` and ``formats`` itself."""
    written = {"job_timeout" if key == "timeout" else key for key in JobConfig._fields}
    assert written - {"secret", "formats"} <= set(KEYS)


def test_the_schema_knows_every_key() -> None:
    schema = json.loads((ROOT / "docs" / "job.schema.json").read_text())
    assert list(schema["properties"]) == list(KEYS)


SAMPLES: list[tuple[str, Any]] = [
    ("tests", ""), ("tests", 3), ("select", ["a"]), ("select", "a"), ("priority", 10**7),
    ("labels", [str(n) for n in range(51)]), ("labels", ["y"]), ("environment", {"A": "1"}),
    ("environment", {"A B": "1"}), ("environment", {"A": 1}), ("pass_env", ["A*"]),
    ("pass_env", ["-"]), ("slots", 1025), ("slots", 0), ("timeout", "1.5h"), ("timeout", "1w"),
    ("job_timeout", 0), ("job_timeout", 10**9), ("grace", -1), ("attempts", 0), ("merge", 1),
    ("merge", False), ("keep_workspace", "always"), ("keep_workspace", "x"),
    ("keep_output", "1 KiB"), ("keep_output", -1), ("artifacts", "1 XB"), ("artifacts", 3),
    ("notify", "https://h"), ("notify", "h"), ("notify_secret_env", "A"),
    ("notify_secret_env", "9"), ("color", 1),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), SAMPLES)
def test_the_schema_says_what_the_program_says(folder: Path, key: str, value: Any) -> None:
    schema = json.loads((ROOT / "docs" / "job.schema.json").read_text())
    values = {"tests": "t", key: value}
    path = folder / "job.json"
    path.write_text(json.dumps(values))
    try:
        read_jobfile(path)
        good = True
    except InvalidConfig:
        good = False
    assert jsonschema.Draft202012Validator(schema).is_valid(values) is good


def test_a_host_takes_what_was_checked(folder: Path) -> None:
    config = job(folder, 'tests = "t"\ngrace = 1\n[environment]\nA = "1"').config
    assert parse_config(json.loads(json.dumps(config._asdict()))) == config
