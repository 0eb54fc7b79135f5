"""Command line and ini options, and what they come to.

Owns their names, help texts and checks.  Every dest starts with ``nosejobs``: other
plugins have clashed over shorter ones.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pytest

from shell_runner import discovery
from shell_runner.config import Config, find_root, load
from shell_runner.discovery import Metadata, apply, defaults_of
from shell_runner.fleet import HOST_TIMEOUT
from shell_runner.plan import DEFAULT_TIMEOUT
from shell_runner.shipping import Selection


def add(parser: pytest.Parser) -> None:
    """All options of ours."""
    group = parser.getgroup("nosejobs", "tests in any language, here and on hosts")
    group.addoption(
        "--nosejobs", metavar="SPEC[,SPEC...]", action="append", dest="nosejobs_hosts", default=[],
        help="run shell tests on hosts: 4*popen (this machine, 4 slots), auto (as many as cores), "
        "ssh=user@host//slots=8, or a name from nosejobs.toml; may be repeated",
    )  # fmt: skip
    group.addoption(
        "--nosejobs-timeout", metavar="SECONDS", type=float, dest="nosejobs_timeout",
        help="seconds until a test is stopped (default 600); a test's own metadata wins",
    )  # fmt: skip
    group.addoption(
        "--nosejobs-allow-missing", action="store_true", dest="nosejobs_allow_missing",
        help="go on without hosts that cannot be opened",
    )  # fmt: skip
    group.addoption(
        "--nosejobs-max-lost", metavar="N", type=int, default=2, dest="nosejobs_max_lost",
        help="give a test up when N hosts were lost while they had it (default 2)",
    )  # fmt: skip
    group.addoption(
        "--nosejobs-host-timeout", metavar="SECONDS", type=float, dest="nosejobs_host_timeout",
        help="a host that has not answered for so long is lost (default 10)",
    )  # fmt: skip
    group.addoption(
        "--nosejobs-artifacts", metavar="DIR", dest="nosejobs_artifacts",
        help="bring what tests write to $TEST_UNDECLARED_OUTPUTS_DIR, and output too long to show, "
        "back to DIR",
    )  # fmt: skip
    group.addoption(
        "--nosejobs-view", choices=("auto", "yes", "no"), default="auto", dest="nosejobs_view",
        help="show what runs on each slot (auto: on a terminal, without -v, -q and -s)",
    )  # fmt: skip
    group.addoption(
        "--nosejobs-repeat", metavar="N", type=int, dest="nosejobs_repeat",
        help="run each shell test N times; stronger than a test's own metadata",
    )  # fmt: skip
    _add_ini(parser)


def _add_ini(parser: pytest.Parser) -> None:
    for name, kind, default, words in (
        ("nosejobs_patterns", "args", list(discovery.PATTERNS), "file names of shell tests"),
        ("nosejobs_timeout", "string", "", "seconds until a shell test is stopped"),
        ("nosejobs_host_timeout", "string", "10", "seconds of silence after which a host is lost"),
        ("nosejobs_tags", "args", [], "tags (markers) of every shell test"),
        ("nosejobs_cwd", "string", "", "where shell tests start: dir (their own) or root"),
        ("nosejobs_pass_env", "args", [], "variables that tests get from their host; * allowed"),
        ("nosejobs_grace", "string", "2", "seconds between SIGTERM and SIGKILL"),
        ("nosejobs_keep_output", "string", "1048576", "bytes kept of each output stream"),
        ("nosejobs_merge_output", "bool", False, "keep stdout and stderr as one, in exact order"),
        ("nosejobs_artifacts_limit", "string", "67108864", "bytes of artefacts of one test"),
        (
            "nosejobs_requires",
            "string",
            "skip",
            "what becomes of a shell test when no host has what it requires: skip or error",
        ),
        ("nosejobs_leftovers", "string", "", "left behind processes: warn, fail or ignore"),
        ("nosejobs_limits", "string", "", "limits of each test: as:2g+nofile:256+cpu:60"),
        ("nosejobs_isolation", "string", "", "the tree of a test: shared or copy"),
        ("nosejobs_root", "string", "", "root of the tree that is shipped to hosts"),
        ("nosejobs_ship", "args", [], "files that are shipped though git ignores them"),
        ("nosejobs_ship_not", "args", [], "files that are never shipped"),
    ):
        parser.addini(name, words, type=kind, default=default)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Options:
    """The options of a run, checked."""

    config: Config
    root: Path
    defaults: Metadata
    patterns: tuple[str, ...]
    #: None: nothing was said of it.
    timeout: float | None
    grace: float
    keep: int
    merge: bool
    pass_env: tuple[str, ...]
    selection: Selection
    allow_missing: bool
    max_lost: int
    #: Seconds of silence after which a host is lost.
    host_timeout: float
    #: Where artefacts go; None: they are not wanted.
    artefacts: Path | None
    #: Bytes of artefacts of one test.
    artefacts_limit: int
    #: ``skip`` or ``error``: what becomes of a test that no host can run.
    requires: str
    #: How often each test runs; None: as its metadata says.
    repeat: int | None


def read(config: pytest.Config) -> Options:
    """Raises pytest.UsageError or BadConfig."""
    root = _root(config)
    tree = load(find_root(root) or root)
    defaults = _defaults(config, tree)
    if config.getoption("nosejobs_max_lost") < 1:
        raise pytest.UsageError("--nosejobs-max-lost must be at least 1")
    repeat = config.getoption("nosejobs_repeat")
    if repeat is not None and not 1 <= repeat <= 10_000:
        raise pytest.UsageError(f"--nosejobs-repeat must be 1 to 10000, not {repeat}")
    requires = config.getini("nosejobs_requires")
    if requires not in ("skip", "error"):
        raise pytest.UsageError(f"ini nosejobs_requires must be skip or error, not {requires!r}")
    return Options(
        config=tree,
        root=root,
        # The default of the tree is weaker than the command line, unlike a test's own word.
        defaults=replace(defaults, timeout=None),
        patterns=tuple(config.getini("nosejobs_patterns")),
        timeout=_timeout(config, defaults.timeout),
        grace=_number(config, "nosejobs_grace", 2.0),
        keep=int(_number(config, "nosejobs_keep_output", 1 << 20)),
        merge=config.getini("nosejobs_merge_output"),
        pass_env=tuple(config.getini("nosejobs_pass_env")),
        selection=Selection(
            tuple(config.getini("nosejobs_ship")), tuple(config.getini("nosejobs_ship_not"))
        ),
        allow_missing=config.getoption("nosejobs_allow_missing"),
        max_lost=config.getoption("nosejobs_max_lost"),
        host_timeout=_host_timeout(config),
        artefacts=_folder(config, "nosejobs_artifacts"),
        artefacts_limit=int(_number(config, "nosejobs_artifacts_limit", 64 << 20)),
        requires=requires,
        repeat=repeat,
    )


def _timeout(config: pytest.Config, of_tree: float | None) -> float | None:
    """The command line, else the ini file, else nosejobs.toml, else nothing."""
    given: float | None = config.getoption("nosejobs_timeout")
    if given is None:
        if not config.getini("nosejobs_timeout"):
            return of_tree
        return _number(config, "nosejobs_timeout", DEFAULT_TIMEOUT)
    if not 0 < given < _ENDLESS:
        raise pytest.UsageError(f"--nosejobs-timeout must be a number above 0, not {given:g}")
    return given


def _host_timeout(config: pytest.Config) -> float:
    """Not so short that a host that is merely busy is taken for a dead one."""
    given = config.getoption("nosejobs_host_timeout")
    seconds = _number(config, "nosejobs_host_timeout", HOST_TIMEOUT) if given is None else given
    if not 0.5 <= seconds <= 86400:
        raise pytest.UsageError(f"nosejobs-host-timeout must be 0.5 to 86400, not {seconds:g}")
    return float(seconds)


def _folder(config: pytest.Config, name: str) -> Path | None:
    given = config.getoption(name)
    return Path(os.path.abspath(config.invocation_params.dir / given)) if given else None


def _root(config: pytest.Config) -> Path:
    """The ini, else where nosejobs.toml is, else the top of the git checkout, else rootdir."""
    given = config.getini("nosejobs_root")
    if given:
        root = Path(config.inipath.parent if config.inipath else config.rootpath, given)
        if not root.is_dir():
            raise pytest.UsageError(f"nosejobs_root: {root} is not a directory")
        return root.resolve()
    found = find_root(config.rootpath)
    if found:
        return found
    for folder in (config.rootpath, *config.rootpath.parents):
        if os.path.lexists(folder / ".git"):
            return folder
    return config.rootpath


def _number(config: pytest.Config, name: str, default: float) -> float:
    text = config.getini(name)
    try:
        number = float(text) if text else default
    except ValueError:
        number = 0.0
    if not 0 < number < _ENDLESS:
        raise pytest.UsageError(f"ini {name} must be a number above 0, not {text!r}")
    return number


def _defaults(config: pytest.Config, tree: Config) -> Metadata:
    metadata = Metadata()
    values = {
        name: config.getini(f"nosejobs_{name}")
        for name in ("tags", "cwd", "leftovers", "limits", "isolation")
        if config.getini(f"nosejobs_{name}")
    }
    for name, value in values.items():
        metadata = apply(metadata, {name: value}, str(config.inipath or "ini"), f"nosejobs_{name}")
    return defaults_of(metadata, tree)


#: Infinity is no number of seconds or bytes that anything could keep to.
_ENDLESS = 1e12


def wants_view(config: pytest.Config, stream: IO[str]) -> bool:
    """A terminal that can move its cursor, and a user who asked for neither more nor less."""
    if config.getoption("nosejobs_view") != "auto":
        return bool(config.getoption("nosejobs_view") == "yes")
    plain = os.environ.get("TERM", "dumb") in ("dumb", "unknown") or "CI" in os.environ
    quiet = config.getoption("verbose", 0) != 0 or config.getoption("capture", "fd") == "no"
    return stream.isatty() and not plain and not quiet
