"""The commands of the dispatcher: ``nosejobs up|check|builds|show|...``.

Owns their words, what goes to which stream, and exit statuses: 0 all is well, 1 the build that was
waited for has not passed, 2 refused or not understood, 6 infrastructure.  All but ``up`` and
``check`` speak with a running dispatcher through its API.  Standard output is for programs, all
else goes to standard error.  Loads nothing at its top that a help text can do without.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shell_runner.cli.console import CliError, put, put_json, say

from .acting import approve, cancel, hold, hosts_, poke, rerun, tag, untag
from .common import (
    INFRASTRUCTURE,
    Command,
    api_client,
    build_argument,
    build_number,
    json_option,
    stage_argument,
    url_option,
)

if TYPE_CHECKING:
    from .api_client import Client

#: Exit status of a build that has not passed.
NOT_PASSED = 1
#: Bytes of a file that are read; its parser takes less.
_MAX_FILE_BYTES = 1 << 20


@click.command(cls=Command)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=Path("dispatcher.toml"),
    show_default=True,
    help="The dispatcher's file.",
)
def up(file: Path) -> None:
    """Run a dispatcher, until Ctrl-C.

    It can be killed at any moment; the next one goes on where it was.
    """
    if not file.exists():
        words = f"there is no {file}\n  try: write one, which names what is watched and its hosts"
        raise CliError(f"{words}; or --config FILE")
    from ..configuration import settings

    found = _settings(file)
    for line in settings.explain(found):
        if line.startswith("warning"):
            say(line)
    try:
        from .. import up as running
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("dispatcher", "shell_runner"):
            raise
        hint = "pip install 'pytest-nosejobs[dispatcher]'"
        words = f"this command needs the package {error.name}"
        raise CliError(f"{words}\n  try: {hint}") from error
    running.run(found, say)
    # All is closed: nobody waits until the interpreter has looked for cycles in what it loaded.
    gc.freeze()


def _settings(file: Path) -> Any:
    from ..configuration import settings

    return settings.parse(_read(file), file.absolute().parent, str(file))


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}") from error


@click.command(cls=Command)
@click.argument("where", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("."))
@json_option
def check(where: Path, as_json: bool) -> None:
    """Check nosejobs.toml and dispatcher.toml, and explain them.

    Those in DIR, or here.  Exits 2 if one of them cannot be understood.
    """
    from shell_runner.config import NAME as TREE

    from ..configuration import settings

    kinds = {TREE: _explain_tree, settings.NAME: _explain_settings}
    paths = [where / name for name in kinds] if where.is_dir() else [where]
    found = {str(each): kinds[each.name](each) for each in paths if each.name in kinds}
    found = {file: lines for file, lines in found.items() if lines}
    if not found:
        raise CliError(f"there is no {TREE} and no {settings.NAME} in {where}")
    if as_json:
        put_json(found)
        return
    for file, lines in found.items():
        put(f"{file}: understood")
        for line in lines:
            put(f"  {line}")


def _explain_tree(file: Path) -> list[str]:
    from shell_runner.toml_document import read

    from ..builds.pipeline_files import understood
    from ..configuration import pipeline

    if not file.is_file():
        return []
    document = read(str(file), _read(file))
    return pipeline.explain(understood(document, file.parent))


def _explain_settings(file: Path) -> list[str]:
    from ..configuration import settings

    return settings.explain(_settings(file)) if file.is_file() else []


@click.command("builds", cls=Command)
@click.option("--source", metavar="NAME", help="Of one source.")
@click.option("--branch", metavar="NAME", help="Of one branch.")
@click.option("--level", metavar="NAME", help="Those that have it: goop, published, ship, ...")
@click.option(
    "--state",
    metavar="STATE",
    help="new, building, built, failed, invalid or superseded: whether there is an artefact.",
)
@click.option(
    "--limit",
    "most",
    metavar="N",
    type=click.IntRange(1, 500),
    default=20,
    show_default=True,
    help="So many.",
)
@click.option("--before", metavar="N", type=click.IntRange(1), help="Older than build N.")
@json_option
@url_option
def builds_(as_json: bool, url: str | None, **wanted: Any) -> None:
    """Show builds, the newest first; and what is wrong with sources."""
    given = {key: value for key, value in wanted.items() if value is not None}
    client = api_client(url)
    found = client.get("/builds", **given)
    if as_json:
        put_json(found)
        return
    from . import tables

    if found:
        tables.show(tables.builds(found))
    else:
        say("no such builds" if given.keys() - {"most"} else "no builds")
    for source in client.get("/sources"):
        if source["trouble"]:
            say(f"source {source['name']}: {source['trouble']}")


@click.command(cls=Command)
@build_argument
@click.option("-f", "--follow", is_flag=True, help="Say what changes, until nothing more comes.")
@click.option("--wait", is_flag=True, help="Until nothing more comes; exits 1 if not all passed.")
@json_option
@url_option
def show(build: str, follow: bool, wait: bool, as_json: bool, url: str | None) -> None:
    """Show a build: stages, what failed and why, numbers, next steps.

    --wait and -f wait also for the build of a revision that was pushed just now.  They exit 0
    if all stages have passed, 1 if not, 6 for infrastructure.
    """
    client = api_client(url)
    number = build_number(client, build, soon=wait or follow)
    if wait or follow:
        found = _waited(client, number, _teller() if follow else lambda found: None)
    else:
        found = client.get(f"/builds/{number}")
    if as_json:
        put_json(found)
    else:
        _show(found)
    if wait or follow:
        status = {"passed": 0, "error": INFRASTRUCTURE}.get(found["outcome"], NOT_PASSED)
        click.get_current_context().exit(status)


def _show(found: Any) -> None:
    from . import tables

    for line in tables.lines(tables.about(found)):
        click.echo(line)
    if found["stages"]:
        click.echo()
        tables.show(tables.stages(found))
        click.echo()
    for line in tables.lines(tables.below(found)):
        click.echo(line)


def _waited(client: Client, number: int, tell: Callable[[Any], None]) -> Any:
    """The build, once nothing more comes by itself."""
    from .api_client import patient

    found, tag = client.news(f"/builds/{number}", "")
    tell(found)
    while found["outcome"] == "going":
        news, tag = patient(partial(client.news, f"/builds/{number}", tag), say)
        if news is not None:
            found = news
            tell(found)
    return found


def _teller() -> Callable[[Any], None]:
    """Says what is new, a line each."""
    said: set[str] = set()

    def tell(found: Any) -> None:
        for line in _news(found):
            if line not in said:
                said.add(line)
                say(line)

    return tell


def _news(found: Any) -> Iterator[str]:
    from . import tables

    if found["state"] != "built":
        yield f"build {found['number']}: {found['words']}"
    for run in found["runs"]:
        if run["state"] not in ("waiting", "blocked"):
            yield tables.news(run)
    if found["level"] != "goop":
        yield f"level: {found['level']}"


@click.command(cls=Command)
@build_argument
@stage_argument
@click.option("-f", "--follow", is_flag=True, help="As it grows, until the stage has ended.")
@click.option("--run", "number", metavar="N", type=click.IntRange(1), help="Default: the last.")
@url_option
def logs(build: str, stage: str, follow: bool, number: int | None, url: str | None) -> None:
    """Print what the install command and the tests of STAGE print.

    Lines of a stage with several hosts begin with the name of the host.
    """
    from . import log_viewer

    client = api_client(url)
    log_viewer.logs(client, build_number(client, build), stage, number, follow, say)


ALL: Iterable[click.Command] = (
    up, check, builds_, show, tag, untag, approve, hold, rerun, cancel, hosts_, logs, poke,
)  # fmt: skip
