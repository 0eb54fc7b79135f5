"""The checked values of the plugin's command-line and ini options.

``option_definitions`` has their names and help texts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pytest

from shell_runner.collection.metadata import (
    DEFAULT_TIMEOUT,
    Metadata,
    apply_values,
    resolve_defaults,
)
from shell_runner.config import Config, load_config
from shell_runner.config_file import find_root
from shell_runner.hosts import spec
from shell_runner.hosts.heartbeat import HOST_TIMEOUT
from shell_runner.junit_style import PROPERTY_PLACES
from shell_runner.remote.protocol.model import Setup
from shell_runner.shipping.file_selection import Selection

from . import other_plugins

#: Upper limit of numbers of seconds and bytes; it excludes infinity.
_MAX_NUMBER = 1e12


@dataclass(frozen=True)
class Options:
    """The checked options of a run."""

    config: Config
    #: The root of the tree that is shipped to hosts.
    root: Path
    #: Metadata of every test, without the timeout.
    defaults: Metadata
    #: File name patterns of tests.
    patterns: tuple[str, ...]
    #: Whether a file that looks like a test and is not collected is an error.
    is_strict: bool
    #: Seconds after which a test is stopped; None: not set.
    timeout: float | None
    #: Seconds between SIGTERM and SIGKILL.
    grace: float
    #: Bytes kept of each output stream of a test.
    output_limit: int
    #: Whether stdout and stderr are one stream.
    merge_output: bool
    #: Names or patterns of environment variables that tests inherit from their host.
    pass_env: tuple[str, ...]
    #: The files to ship.
    selection: Selection
    #: Whether the run goes on without hosts that cannot be opened.
    allow_missing: bool
    #: The number of lost hosts after which a test is given up.
    max_lost: int
    #: Seconds without an answer after which a host is lost.
    host_timeout: float
    #: The folder for artifacts; None: they are not collected.
    artifacts: Path | None
    #: Maximum size of the artifacts of one test, in bytes.
    artifacts_limit: int
    #: ``skip`` or ``error``: the outcome of a test that no host can run.
    requires: str
    #: The number of runs of each test; None: as its metadata says.
    repeat: int | None
    #: The place of properties in JUnit XML, one of ``PROPERTY_PLACES``.
    junit_properties: str


def read_options(config: pytest.Config) -> Options:
    """Return the checked options.

    Raises pytest.UsageError for an invalid value, InvalidConfig for an invalid nosejobs.toml and
    InvalidMetadata for invalid metadata in the ini file.
    """
    root = _find_tree_root(config)
    tree = load_config(find_root(root) or root)
    defaults = _read_defaults(config, tree)
    if config.getoption("nosejobs_max_lost") < 1:
        raise pytest.UsageError("--nosejobs-max-lost must be at least 1")
    repeat = config.getoption("nosejobs_repeat")
    if repeat is not None and not 1 <= repeat <= 10_000:
        raise pytest.UsageError(f"--nosejobs-repeat must be 1 to 10000, not {repeat}")
    if repeat is None:
        repeat = other_plugins.get_repeat_count(config)
    requires = config.getini("nosejobs_requires")
    if requires not in ("skip", "error"):
        raise pytest.UsageError(f"ini nosejobs_requires must be skip or error, not {requires!r}")
    return Options(
        config=tree,
        root=root,
        # The tree's default timeout yields to the command line, unlike that of a test.
        defaults=replace(defaults, timeout=None),
        patterns=tuple(config.getini("nosejobs_patterns")),
        is_strict=config.getoption("nosejobs_strict") or config.getini("nosejobs_strict"),
        timeout=_read_timeout(config, defaults.timeout),
        grace=_read_number(config, "nosejobs_grace", 2.0),
        output_limit=int(_read_number(config, "nosejobs_keep_output", 1 << 20)),
        merge_output=config.getini("nosejobs_merge_output"),
        pass_env=tuple(config.getini("nosejobs_pass_env")),
        selection=Selection(
            tuple(config.getini("nosejobs_ship")), tuple(config.getini("nosejobs_ship_not"))
        ),
        allow_missing=config.getoption("nosejobs_allow_missing"),
        max_lost=config.getoption("nosejobs_max_lost"),
        host_timeout=_read_host_timeout(config),
        artifacts=_read_folder(config, "nosejobs_artifacts"),
        artifacts_limit=int(_read_number(config, "nosejobs_artifacts_limit", 64 << 20)),
        requires=requires,
        repeat=repeat,
        junit_properties=_read_junit_properties(config),
    )


def read_host_specs(config: pytest.Config, tree: Config) -> list[spec.HostSpec]:
    """Return the hosts of ``--nosejobs``; none in a worker of xdist.

    ``tree``: the nosejobs.toml that names hosts.  Raises pytest.UsageError if another option
    excludes them, and InvalidHostSpec for an invalid spec.
    """
    specs = config.getoption("nosejobs_hosts")
    if not specs or hasattr(config, "workerinput"):
        return []
    if config.getoption("numprocesses", None) or config.getoption("tx", None):
        raise pytest.UsageError(
            "-n and --nosejobs cannot be used at once: both would run the tests. "
            "Shell tests alone: --nosejobs=N*popen. Python tests in parallel: -n N, "
            "which runs shell tests in its workers, too."
        )
    if config.getoption("stepwise", False):
        raise pytest.UsageError(
            "--stepwise and --nosejobs cannot be used at once: tests on hosts end in any "
            "order. Stop at a failure: -x. Run what failed again: --lf, or --ff first."
        )
    return spec.parse_specs(specs, tree.hosts)


def build_setup(config: pytest.Config, options: Options, formats: Mapping[str, str]) -> Setup:
    """Return the settings that a host gets when it is opened.

    ``formats``: source text by name of each output format, empty for a built-in one.
    """
    return Setup(
        root=str(options.root),
        slots=0,
        grace=options.grace,
        output_limit=options.output_limit,
        pass_env=options.pass_env,
        merge_output=options.merge_output,
        formats=tuple(formats.items()),
        artifacts_limit=options.artifacts_limit if options.artifacts else 0,
        live_output=config.getoption("capture", "fd") == "no",
    )


def wants_live_view(config: pytest.Config, stream: IO[str]) -> bool:
    """Return whether to show the live view on ``stream``.

    With ``--nosejobs-view=auto``: on a terminal that can move its cursor, if the user asked
    for neither more nor less output.
    """
    if config.getoption("nosejobs_view") != "auto":
        return bool(config.getoption("nosejobs_view") == "yes")
    is_plain = os.environ.get("TERM", "dumb") in ("dumb", "unknown") or "CI" in os.environ
    is_default = config.getoption("verbose", 0) == 0 and config.getoption("capture", "fd") != "no"
    return stream.isatty() and not is_plain and is_default


def _read_timeout(config: pytest.Config, tree_timeout: float | None) -> float | None:
    """Return the timeout of the command line, else of the ini file, else ``tree_timeout``."""
    seconds: float | None = config.getoption("nosejobs_timeout")
    if seconds is None:
        if not config.getini("nosejobs_timeout"):
            return tree_timeout
        return _read_number(config, "nosejobs_timeout", DEFAULT_TIMEOUT)
    if not 0 < seconds < _MAX_NUMBER:
        raise pytest.UsageError(f"--nosejobs-timeout must be seconds above 0, not {seconds:g}")
    return seconds


def _read_host_timeout(config: pytest.Config) -> float:
    """Return a timeout that is long enough for a host that is merely busy."""
    seconds = config.getoption("nosejobs_host_timeout")
    if seconds is None:
        seconds = _read_number(config, "nosejobs_host_timeout", HOST_TIMEOUT)
    if not 0.5 <= seconds <= 86400:
        raise pytest.UsageError(f"nosejobs-host-timeout must be 0.5 to 86400, not {seconds:g}")
    return float(seconds)


def _read_junit_properties(config: pytest.Config) -> str:
    place: str = config.getini("nosejobs_junit_properties")
    if place not in PROPERTY_PLACES:
        raise pytest.UsageError(
            f"ini nosejobs_junit_properties must be case, suite or none, not {place!r}"
        )
    return place


def _read_folder(config: pytest.Config, name: str) -> Path | None:
    folder = config.getoption(name)
    return Path(os.path.abspath(config.invocation_params.dir / folder)) if folder else None


def _find_tree_root(config: pytest.Config) -> Path:
    """Return the root by the ini file, else by nosejobs.toml, else by git, else rootdir."""
    name = config.getini("nosejobs_root")
    if name:
        root = Path(config.inipath.parent if config.inipath else config.rootpath, name)
        if not root.is_dir():
            raise pytest.UsageError(f"nosejobs_root: {root} is not a directory")
        return root.resolve()
    config_root = find_root(config.rootpath)
    if config_root:
        return config_root
    for folder in (config.rootpath, *config.rootpath.parents):
        if os.path.lexists(folder / ".git"):
            return folder
    return config.rootpath


def _read_number(config: pytest.Config, name: str, default: float) -> float:
    text = config.getini(name)
    try:
        number = float(text) if text else default
    except ValueError:
        number = 0.0
    if not 0 < number < _MAX_NUMBER:
        raise pytest.UsageError(f"ini {name} must be a number above 0, not {text!r}")
    return number


#: Ini options, without their prefix, that are keys of metadata; the others replace a preset's.
_METADATA_NAMES = ("preset", "run", "args", "tags", "cwd", "leftovers", "limits", "isolation")


def _read_defaults(config: pytest.Config, tree: Config) -> Metadata:
    """Return the metadata of every test: that of nosejobs.toml, else of the ini file."""
    metadata = Metadata()
    values = {
        name: config.getini(f"nosejobs_{name}")
        for name in _METADATA_NAMES
        if config.getini(f"nosejobs_{name}")
    }
    for name, value in values.items():
        metadata = apply_values(
            metadata, {name: value}, str(config.inipath or "ini"), f"nosejobs_{name}"
        )
    return resolve_defaults(metadata, tree)
