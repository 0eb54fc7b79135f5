"""Names, defaults and help texts of the plugin's command-line and ini options.

Each session loads this module, whether it has shell tests or not; ``options`` checks the values.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import pytest

from shell_runner.collection.file_names import DEFAULT_PATTERNS
from shell_runner.junit_style import IN_TESTCASES


def add_options(parser: pytest.Parser) -> None:
    """Define all options of the plugin."""
    group = parser.getgroup(
        "nosejobs", "nosejobs: tests in any language, on this machine and on hosts"
    )
    for name, dest, default, settings in _OPTIONS:
        group.addoption(name, dest=dest, default=default, **settings)
    for name, kind, default, text in _INI_OPTIONS:
        parser.addini(name, text, type=kind, default=default)  # type: ignore[arg-type]


def has_settings(config: pytest.Config) -> bool:
    """Return whether the user has set any of the options."""
    return any(config.getoption(dest) != default for _, dest, default, _ in _OPTIONS) or any(
        config.getini(name) != default for name, _, default, _ in _INI_OPTIONS
    )


def _parse_seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, not {text!r}") from None


#: Name, dest, default and other settings of each command-line option.  Every dest starts with
#: ``nosejobs``, because shorter ones have clashed with other plugins.
_OPTIONS: tuple[tuple[str, str, object, Mapping[str, Any]], ...] = (
    (
        "--nosejobs", "nosejobs_hosts", [],
        {
            "metavar": "SPEC[,SPEC...]", "action": "append",
            "help": "run shell tests on hosts: 4*popen (this machine, 4 slots), auto (one slot for "
            "each core), ssh=user@host//slots=8, agent=host, or a name from nosejobs.toml; may be "
            "repeated",
        },
    ),
    (
        "--nosejobs-timeout", "nosejobs_timeout", None,
        {
            "metavar": "SECONDS", "type": _parse_seconds,
            "help": "seconds after which a test is stopped (default 600); a test's own metadata "
            "takes precedence",
        },
    ),
    (
        "--nosejobs-allow-missing", "nosejobs_allow_missing", False,
        {"action": "store_true", "help": "run without the hosts that cannot be opened"},
    ),
    (
        "--nosejobs-max-lost", "nosejobs_max_lost", 2,
        {
            "metavar": "N", "type": int,
            "help": "give up a test when N hosts were lost while they had it (default 2)",
        },
    ),
    (
        "--nosejobs-host-timeout", "nosejobs_host_timeout", None,
        {
            "metavar": "SECONDS", "type": _parse_seconds,
            "help": "seconds without an answer after which a host is lost (default 10)",
        },
    ),
    (
        "--nosejobs-artifacts", "nosejobs_artifacts", None,
        {
            "metavar": "DIR",
            "help": "copy the files that tests write to $TEST_UNDECLARED_OUTPUTS_DIR, and output "
            "that is too long to show, to DIR",
        },
    ),
    (
        "--nosejobs-view", "nosejobs_view", "auto",
        {
            "choices": ("auto", "yes", "no"),
            "help": "show what runs on each slot (auto: on a terminal, without -v, -q and -s)",
        },
    ),
    (
        "--nosejobs-repeat", "nosejobs_repeat", None,
        {
            "metavar": "N", "type": int,
            "help": "run each shell test N times; takes precedence over a test's own metadata",
        },
    ),
    (
        "--nosejobs-strict", "nosejobs_strict", False,
        {
            "action": "store_true",
            "help": "treat a file that looks like a test and is not collected as an error",
        },
    ),
)  # fmt: skip

#: Name, type, default and help text of each ini option.
_INI_OPTIONS: tuple[tuple[str, str, object, str], ...] = (
    (
        "nosejobs_patterns",
        "args",
        list(DEFAULT_PATTERNS),
        "file name patterns of shell tests",
    ),
    (
        "nosejobs_strict", "bool", False,
        "treat a file that looks like a test and is not collected as an error",
    ),
    ("nosejobs_timeout", "string", "", "seconds after which a shell test is stopped"),
    (
        "nosejobs_host_timeout", "string", "10",
        "seconds without an answer after which a host is lost",
    ),
    ("nosejobs_tags", "args", [], "markers of every shell test"),
    (
        "nosejobs_cwd", "string", "",
        "working directory of shell tests: dir (the test's own) or root (of the tree)",
    ),
    (
        "nosejobs_preset", "string", "",
        "folder and variables that the usual runner of the tests sets: perl, bats or automake",
    ),
    (
        "nosejobs_run", "string", "",
        "command that runs a shell test; {file} is its path and {root} the root of the tree",
    ),
    ("nosejobs_args", "string", "", "arguments of every shell test"),
    (
        "nosejobs_pass_env", "args", [],
        "environment variables that tests inherit from their host; patterns with * are allowed",
    ),
    ("nosejobs_grace", "string", "2", "seconds between SIGTERM and SIGKILL"),
    ("nosejobs_keep_output", "string", "1048576", "bytes kept of each output stream of a test"),
    (
        "nosejobs_merge_output", "bool", False,
        "keep stdout and stderr as one stream, in the exact order of writing",
    ),
    (
        "nosejobs_artifacts_limit", "string", "67108864",
        "maximum size of the artifacts of one test, in bytes",
    ),
    (
        "nosejobs_requires", "string", "skip",
        "outcome of a shell test when no host has the labels that it requires: skip or error",
    ),
    (
        "nosejobs_junit_properties", "string", IN_TESTCASES,
        "where JUnit XML has the properties of shell tests: case (in each testcase), suite (in the "
        "testsuite, as Jenkins' junit-10.xsd demands) or none",
    ),
    (
        "nosejobs_leftovers", "string", "",
        "what to do when a test leaves processes behind: warn, fail or ignore",
    ),
    ("nosejobs_limits", "string", "", "resource limits of each test, such as as:2g+nofile:256"),
    (
        "nosejobs_isolation", "string", "",
        "tree in which a test runs: shared, or copy (a copy of its own)",
    ),
    ("nosejobs_root", "string", "", "root of the tree that is shipped to hosts"),
    ("nosejobs_ship", "args", [], "patterns of files to ship although git ignores them"),
    ("nosejobs_ship_not", "args", [], "patterns of files not to ship"),
)  # fmt: skip
