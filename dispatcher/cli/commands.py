"""The commands of the dispatcher: ``nosejobs up|check|builds|show|...``.

Responsible for messages, streams, and exit statuses: 0 success, 1 the build that the command waited
for has not passed, 2 invalid or rejected, 6 infrastructure.  All but ``up`` and ``check`` use the
API of a running dispatcher.  Results go to standard output, messages to standard error.  Modules
that a help text does not need are imported in functions.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shell_runner.cli.console import (
    INFRASTRUCTURE,
    CliError,
    print_json,
    print_message,
    print_result,
)

from .action_commands import (
    approve_stage,
    cancel_runs,
    hold_stage,
    list_hosts,
    poke_source,
    rerun_stage,
    revoke_tags,
    tag_stage,
)
from .common import (
    Command,
    api_client,
    build_argument,
    build_number,
    json_option,
    stage_argument,
    url_option,
)

if TYPE_CHECKING:
    from .api_client import ApiClient

#: Exit status if the build has not passed.
NOT_PASSED = 1
#: Maximum bytes that are read of a file; its parser accepts fewer.
_MAX_FILE_BYTES = 1 << 20


@click.command("up", cls=Command)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=Path("dispatcher.toml"),
    show_default=True,
    help="Settings of the dispatcher.",
)
def run_dispatcher(file: Path) -> None:
    """Run a dispatcher until Ctrl-C.

    It may be killed at any time; the next one continues its work.
    """
    if not file.exists():
        message = f"there is no {file}\n  try: write one with [sources.NAME] and [hosts.NAME]"
        raise CliError(f"{message}; or --config FILE")
    from ..configuration import settings

    parsed = _parse_settings(file)
    for line in settings.explain(parsed):
        if line.startswith("warning"):
            print_message(line)
    try:
        from .. import up as dispatcher_up
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("dispatcher", "shell_runner"):
            raise
        hint = "pip install 'pytest-nosejobs[dispatcher]'"
        message = f"this command needs the package {error.name}"
        raise CliError(f"{message}\n  try: {hint}") from error
    dispatcher_up.run(parsed, print_message)
    # Everything is closed; the exit need not wait for a garbage collection of all modules.
    gc.freeze()


def _parse_settings(file: Path) -> Any:
    from ..configuration import settings

    return settings.parse(_read_file(file), file.absolute().parent, str(file))


def _read_file(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise CliError(f"cannot read {file}: {error.strerror}") from error


@click.command("check", cls=Command)
@click.argument("paths", metavar="[DIR]...", nargs=-1, type=click.Path(path_type=Path))
@json_option
def check_config(paths: tuple[Path, ...], as_json: bool) -> None:
    """Check nosejobs.toml and dispatcher.toml in DIR, and explain them.

    Warns about stages whose tests or hosts do not exist, and sources that cannot be read.
    DIR is the current directory by default; if the files are in two, name both.
    Exits with 2 if one of the files is invalid.
    """
    explained = _explain_files([file for path in paths or (Path(),) for file in _list_files(path)])
    if as_json:
        print_json(explained)
        return
    for file, lines in explained.items():
        print_result(f"{file}: valid")
        for line in lines:
            print_result(f"  {line}")


def _list_files(path: Path) -> list[Path]:
    """Return the files of a folder that ``check`` knows; raise CliError if there are none."""
    from shell_runner.config_file import CONFIG_FILE_NAME

    from ..configuration import settings

    names = (CONFIG_FILE_NAME, settings.FILE_NAME)
    candidates = [path / name for name in names] if path.is_dir() else [path]
    files = [file for file in candidates if file.name in names and file.is_file()]
    if not files:
        raise CliError(f"there is no {names[0]} and no {names[1]} in {path.absolute()}")
    return files


def _explain_files(files: Iterable[Path]) -> dict[str, list[str]]:
    """Return lines that explain each file, and warnings."""
    from shell_runner.config_file import CONFIG_FILE_NAME
    from shell_runner.toml_document import parse_document

    from ..builds.checkout_reader import parse_pipeline
    from ..configuration import pipeline, settings
    from . import config_warnings as warnings

    explained: dict[str, list[str]] = {}
    trees, own = [], []
    for file in files:
        if file.name == CONFIG_FILE_NAME:
            config = parse_pipeline(parse_document(str(file), _read_file(file)), file.parent)
            trees.append((config, file.parent))
            lines, found = pipeline.explain(config), warnings.warn_about_tree(config, file.parent)
        else:
            parsed = _parse_settings(file)
            own.append((str(file), parsed))
            lines, found = settings.explain(parsed), warnings.warn_about_sources(parsed)
        explained[str(file)] = lines + _format_warnings(found)
    for name, parsed in own:
        explained[name] += _format_warnings(warnings.warn_about_both(trees, parsed))
    return explained


def _format_warnings(messages: Iterable[str]) -> list[str]:
    return [f"warning: {line}" for line in messages]


@click.command("builds", cls=Command)
@click.option("--source", metavar="NAME", help="Only builds of this source.")
@click.option("--branch", metavar="NAME", help="Only builds of this branch.")
@click.option(
    "--level",
    metavar="NAME",
    help="Only builds with this level: goop (no tags yet), published, ship, ...",
)
@click.option(
    "--state",
    metavar="STATE",
    help="Only builds in this state: new, building, built, failed, invalid or superseded.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 500),
    default=20,
    show_default=True,
    help="Maximum number of builds.",
)
@click.option(
    "--before", metavar="N", type=click.IntRange(1), help="Only builds older than build N."
)
@json_option
@url_option
def list_builds(as_json: bool, url: str | None, **filters: Any) -> None:
    """List builds, the newest first, and errors of sources."""
    parameters = {key: value for key, value in filters.items() if value is not None}
    client = api_client(url)
    found = client.get("/builds", **parameters)
    if as_json:
        print_json(found)
        return
    from . import tables

    if found:
        tables.print_table(tables.format_builds(found))
    else:
        print_message(_no_builds_message(parameters))
    for source in client.get("/sources"):
        if source["error"]:
            print_message(f"source {source['name']}: {source['error']}")


def _no_builds_message(parameters: dict[str, Any]) -> str:
    """Return which options no build matches; the server refuses values that do not exist."""
    options = [f"--{name} {value}" for name, value in parameters.items() if name != "limit"]
    return f"no builds match {' '.join(options)}" if options else "there are no builds yet"


@click.command("show", cls=Command)
@build_argument
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Print changes until the build has ended or waits for a person.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait until the build has ended or waits for a person.",
)
@json_option
@url_option
def show_build(build: str, follow: bool, wait: bool, as_json: bool, url: str | None) -> None:
    """Show a build: stages, failures, measurements, next steps.

    --wait and -f also wait for the build of a revision that was just pushed.  They exit with 0
    if all stages have passed, 1 if not, 6 for an infrastructure error.
    """
    client = api_client(url)
    number = build_number(client, build, soon=wait or follow)
    if wait or follow:
        found = _wait_for_build_end(
            client, number, _change_printer() if follow else lambda found: None
        )
    else:
        found = client.get(f"/builds/{number}")
    if as_json:
        print_json(found)
    else:
        _print_build(found)
    if wait or follow:
        status = {"passed": 0, "error": INFRASTRUCTURE}.get(found["outcome"], NOT_PASSED)
        click.get_current_context().exit(status)


def _print_build(found: Any) -> None:
    from . import tables

    for line in tables.format_lines(tables.format_build_header(found)):
        click.echo(line)
    if found["stages"]:
        click.echo()
        tables.print_table(tables.format_stages(found))
        click.echo()
    for line in tables.format_lines(tables.format_build_footer(found)):
        click.echo(line)


def _wait_for_build_end(client: ApiClient, number: int, tell: Callable[[Any], None]) -> Any:
    """Return the build once it cannot change without a person."""
    from .api_client import retry_until_reachable

    found, etag = client.wait_for_change(f"/builds/{number}", "")
    tell(found)
    while found["outcome"] == "running":
        changed, etag = retry_until_reachable(
            partial(client.wait_for_change, f"/builds/{number}", etag), print_message
        )
        if changed is not None:
            found = changed
            tell(found)
    return found


def _change_printer() -> Callable[[Any], None]:
    """Return a function that prints each status line of a build once."""
    printed: set[str] = set()

    def tell(found: Any) -> None:
        for line in _format_status_lines(found):
            if line not in printed:
                printed.add(line)
                print_message(line)

    return tell


def _format_status_lines(found: Any) -> Iterator[str]:
    from . import tables

    if found["state"] != "built":
        yield f"build {found['number']}: {found['message']}"
    for run in found["runs"]:
        if run["state"] not in ("waiting", "blocked"):
            yield tables.format_run_status(run)
    if found["level"] != "goop":
        yield f"level: {found['level']}"


@click.command("logs", cls=Command)
@build_argument
@stage_argument
@click.option("-f", "--follow", is_flag=True, help="Follow the log until the stage has ended.")
@click.option(
    "--run",
    "number",
    metavar="N",
    type=click.IntRange(1),
    help="Run of the stage; default: the newest.",
)
@url_option
def show_logs(build: str, stage: str, follow: bool, number: int | None, url: str | None) -> None:
    """Print the output of the install command and the tests of STAGE.

    If the stage runs on several hosts, each line starts with the name of the host.
    """
    from . import stage_log

    client = api_client(url)
    stage_log.print_logs(client, build_number(client, build), stage, number, follow, print_message)


#: The commands in the order of documentation.
ALL_COMMANDS: Iterable[click.Command] = (
    run_dispatcher, check_config, list_builds, show_build, tag_stage, revoke_tags, approve_stage,
    hold_stage, rerun_stage, cancel_runs, list_hosts, show_logs, poke_source,
)  # fmt: skip
