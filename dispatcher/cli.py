"""The commands of the dispatcher: ``nosejobs up|check|builds|show|...``.

Owns their words, what goes to which stream, and exit statuses: 0 all is well, 1 the build that was
waited for has not passed, 2 refused or not understood, 6 infrastructure.  All but ``up`` and
``check`` speak with a running dispatcher through its API.  Standard output is for programs, all
else goes to standard error.  Loads nothing at its top that a help text can do without.
"""

from __future__ import annotations

import functools
import gc
import getpass
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from shell_runner.cli import Trouble, put, put_json, say
from shell_runner.errors import NosejobsError
from shell_runner.guard import clean

if TYPE_CHECKING:
    from .asking import Client

#: Exit statuses.
NOT_PASSED, INFRASTRUCTURE, INTERRUPTED, NOBODY_READS = 1, 6, 130, 141
#: What answers lead to that have another shape than those of a dispatcher.
_ODD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
#: Noted by a command that believes what a server says.
_ASKED = "nosejobs.asked"
#: Bytes of a file that are read; its parser takes less.
_LARGEST = 1 << 20
#: Seconds until a commit that was pushed is a build: sources are looked at every 30 s, unless told.
_SOON = 60.0
#: Characters of a revision that are enough to name a build.
_SHORTEST = 4


class _Away(Trouble):
    """The dispatcher is to blame, or the way to it."""

    exit_code = INFRASTRUCTURE


def _guarded(ctx: click.Context, call: Callable[[click.Context], Any]) -> Any:
    """Our errors without a traceback; a dispatcher that is away is no mistake."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            # What a person is shown is not worth an error, whatever the terminal can write.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return call(ctx)
    except NosejobsError as error:
        kind = _Away if type(error).__name__ == "Unreachable" else Trouble
        raise kind(clean(str(error))) from error
    except _ODD as error:
        if _ASKED not in ctx.meta:
            raise
        raise _Away(_odd(error)) from error
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ctx.exit(NOBODY_READS)
    except KeyboardInterrupt:
        say("interrupted; the dispatcher goes on")
        ctx.exit(INTERRUPTED)


def _odd(error: Exception) -> str:
    """Exit status 1 is for builds: an answer that is none says nothing of one."""
    what = clean(f"{type(error).__name__}: {error}"[:200])
    words = f"what the dispatcher has answered cannot be understood ({what})"
    return f"{words}\n  is it another program, or another version? try: --url"


class _Command(click.Command):
    """One of ours; one that takes a build says how to name it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if any(each.name == "build" for each in self.params):
            self.epilog = "BUILD is its number, the beginning of its revision, or latest."

    def invoke(self, ctx: click.Context) -> Any:
        return _guarded(ctx, super().invoke)


_url = click.option(
    "--url",
    metavar="URL",
    help="The dispatcher's; default: $NOSEJOBS_URL, else what the dispatcher.toml here says.",
)
_json = click.option("--json", "as_json", is_flag=True, help="For programs.")
_who = click.option("--who", metavar="NAME", help="Who does it; default: you.")
_why = click.option("--reason", metavar="WORDS", default="", help="Why, for the record.")
_reason = click.option("--reason", metavar="WORDS", required=True, help="Why, for the record.")
_build = click.argument("build", metavar="BUILD")
_stage = click.argument("stage", metavar="STAGE")


def _client(url: str | None) -> Client:
    from . import asking

    found = asking.Client(asking.address(url, Path.cwd()))
    click.get_current_context().meta[_ASKED] = True
    return found


def _me(who: str | None) -> str:
    if who:
        return who
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


# -- which build --------------------------------------------------------------------


def _number(client: Client, text: str, soon: bool = False) -> int:
    """A build by its number, the beginning of its revision, or ``latest``.

    ``soon``: who has just pushed waits for a build of that revision, but not for ever.
    """
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    if text == "latest":
        found = client.get("/builds", most=1)
    elif re.fullmatch(rf"[0-9a-f]{{{_SHORTEST},64}}", text):
        found = client.get("/builds", most=1, revision=text)
        if soon and not found:
            found = _arrived(client, text)
    else:
        words = "write its number, 4 or more characters of its revision, or latest"
        raise click.UsageError(f"{text!r} is no build: {words}")
    if not found:
        raise Trouble(f"there is no build {text}\n  try: nosejobs builds")
    return int(found[0]["number"])


def _arrived(client: Client, revision: str) -> Any:
    """The build of a commit, once its source was looked at, in a list; empty: it does not come."""
    from .asking import patient

    say(f"there is no build of {revision} yet; waits for one, up to {_SOON:.0f} s")
    deadline = time.monotonic() + _SOON
    found: Any = []
    tag = ""
    while not found and time.monotonic() < deadline:
        ask = partial(client.news, "/builds", tag, most=1, revision=revision)
        news, tag = patient(ask, say)
        found = news or []
    return found


# -- up and check -------------------------------------------------------------------


@click.command(cls=_Command)
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
        raise Trouble(f"{words}; or --config FILE")
    from . import settings

    found = _settings(file)
    for line in settings.explain(found):
        if line.startswith("warning"):
            say(line)
    try:
        from . import running
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("dispatcher", "shell_runner"):
            raise
        hint = "pip install 'pytest-nosejobs[dispatcher]'"
        words = f"this command needs the package {error.name}"
        raise Trouble(f"{words}\n  try: {hint}") from error
    running.run(found, say)
    # All is closed: nobody waits until the interpreter has looked for cycles in what it loaded.
    gc.freeze()


def _settings(file: Path) -> Any:
    from . import settings

    return settings.parse(_read(file), file.absolute().parent, str(file))


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_LARGEST)
    except OSError as error:
        raise Trouble(f"{file} cannot be read: {error.strerror}") from error


@click.command(cls=_Command)
@click.argument("where", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("."))
@_json
def check(where: Path, as_json: bool) -> None:
    """Check nosejobs.toml and dispatcher.toml, and explain them.

    Those in DIR, or here.  Exits 2 if one of them cannot be understood.
    """
    from shell_runner.config import NAME as TREE

    from . import settings

    kinds = {TREE: _explain_tree, settings.NAME: _explain_settings}
    paths = [where / name for name in kinds] if where.is_dir() else [where]
    found = {str(each): kinds[each.name](each) for each in paths if each.name in kinds}
    found = {file: lines for file, lines in found.items() if lines}
    if not found:
        raise Trouble(f"there is no {TREE} and no {settings.NAME} in {where}")
    if as_json:
        put_json(found)
        return
    for file, lines in found.items():
        put(f"{file}: understood")
        for line in lines:
            put(f"  {line}")


def _explain_tree(file: Path) -> list[str]:
    from shell_runner.toml_document import read

    from . import config
    from .builds import understood

    if not file.is_file():
        return []
    document = read(str(file), _read(file))
    return config.explain(understood(document, file.parent))


def _explain_settings(file: Path) -> list[str]:
    from . import settings

    return settings.explain(_settings(file)) if file.is_file() else []


# -- looking ------------------------------------------------------------------------


@click.command("builds", cls=_Command)
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
@_json
@_url
def builds_(as_json: bool, url: str | None, **wanted: Any) -> None:
    """Show builds, the newest first; and what is wrong with sources."""
    given = {key: value for key, value in wanted.items() if value is not None}
    client = _client(url)
    found = client.get("/builds", **given)
    if as_json:
        put_json(found)
        return
    from . import shown

    if found:
        shown.show(shown.builds(found))
    else:
        say("no such builds" if given.keys() - {"most"} else "no builds")
    for source in client.get("/sources"):
        if source["trouble"]:
            say(f"source {source['name']}: {source['trouble']}")


@click.command(cls=_Command)
@_build
@click.option("-f", "--follow", is_flag=True, help="Say what changes, until nothing more comes.")
@click.option("--wait", is_flag=True, help="Until nothing more comes; exits 1 if not all passed.")
@_json
@_url
def show(build: str, follow: bool, wait: bool, as_json: bool, url: str | None) -> None:
    """Show a build: stages, what failed and why, numbers, next steps.

    --wait and -f wait also for the build of a revision that was pushed just now.  They exit 0
    if all stages have passed, 1 if not, 6 for infrastructure.
    """
    client = _client(url)
    number = _number(client, build, soon=wait or follow)
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
    from . import shown

    for line in shown.lines(shown.about(found)):
        click.echo(line)
    if found["stages"]:
        click.echo()
        shown.show(shown.stages(found))
        click.echo()
    for line in shown.lines(shown.below(found)):
        click.echo(line)


def _waited(client: Client, number: int, tell: Callable[[Any], None]) -> Any:
    """The build, once nothing more comes by itself."""
    from .asking import patient

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
    from . import shown

    if found["state"] != "built":
        yield f"build {found['number']}: {found['words']}"
    for run in found["runs"]:
        if run["state"] not in ("waiting", "blocked"):
            yield shown.news(run)
    if found["level"] != "goop":
        yield f"level: {found['level']}"


# -- acting -------------------------------------------------------------------------


def _act(client: Client, as_json: bool, where: str, **body: Any) -> None:
    _tell(client.post(where, **body), as_json)


def _tell(found: Any, as_json: bool) -> None:
    if as_json:
        put_json(found)
    else:
        put(found["words"])


class _Asked(NamedTuple):
    """What somebody wants of a stage of a build."""

    url: str | None
    build: str
    stage: str
    who: str | None
    reason: str
    as_json: bool

    def post(self, action: str, **body: Any) -> Any:
        """Ask for it; the answer."""
        from . import asking

        client = _client(self.url)
        where = asking.path("builds", _number(client, self.build), "stages", self.stage, action)
        return client.post(where, who=_me(self.who), reason=self.reason, **body)

    def act(self, action: str) -> None:
        """Ask for it, and say what came of it."""
        _tell(self.post(action), self.as_json)


def _on_stage(why: Callable[[Any], Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The arguments and options of all commands that do something to a stage."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def gather(**given: Any) -> None:
            asked = _Asked(*(given.pop(name) for name in _Asked._fields))
            command(asked, **given)

        for option in (_url, _json, _who, why, _stage, _build):
            gather = option(gather)
        return gather

    return decorate


@click.command(cls=_Command)
@_on_stage(_reason)
@click.option("--revoke", is_flag=True, help="Revoke its tags instead, as untag does.")
def tag(asked: _Asked, revoke: bool) -> None:
    """Tag BUILD by hand: it counts as having passed STAGE."""
    asked.act("revoke" if revoke else "tag")


@click.command(cls=_Command)
@_on_stage(_reason)
def untag(asked: _Asked) -> None:
    """Revoke the tags of STAGE; they stay on record."""
    asked.act("revoke")


@click.command(cls=_Command)
@_on_stage(_why)
def approve(asked: _Asked) -> None:
    """Let STAGE run: opens its gate, or ends a hold."""
    asked.act("approve")


@click.command(cls=_Command)
@_on_stage(_why)
def hold(asked: _Asked) -> None:
    """Keep STAGE from running until somebody approves it."""
    asked.act("hold")


@click.command(cls=_Command)
@_on_stage(_why)
@click.option("--failed", is_flag=True, help="Only the tests that failed.")
def rerun(asked: _Asked, failed: bool) -> None:
    """Run STAGE again, or only its tests that failed.

    STAGE build is the build command.
    """
    found = asked.post("rerun", failed=failed)
    if asked.as_json:
        put_json(found)
        return
    some = f", {found['only']} tests" if found["only"] is not None else ""
    put(f"run {found['number']} of {found['stage']}{some}")


@click.command(cls=_Command)
@_build
@click.argument("stage", metavar="[STAGE]", required=False)
@_why
@_who
@_json
@_url
def cancel(
    build: str, stage: str | None, reason: str, who: str | None, as_json: bool, url: str | None
) -> None:
    """End the run of STAGE, or all that is to come of BUILD."""
    from . import asking

    client = _client(url)
    number = _number(client, build)
    parts = ("builds", number, "stages", stage) if stage else ("builds", number)
    _act(client, as_json, asking.path(*parts, "cancel"), who=_me(who), reason=reason)


@click.command(cls=_Command)
@click.argument("source")
@_why
@_who
@_json
@_url
def poke(source: str, reason: str, who: str | None, as_json: bool, url: str | None) -> None:
    """Let the dispatcher look at SOURCE now; for hooks of repositories."""
    from . import asking

    where = asking.path("poke", source)
    _act(_client(url), as_json, where, who=_me(who), reason=reason)


# -- hosts --------------------------------------------------------------------------


class _Hosts(click.Group):
    """Without a command it lists."""

    def invoke(self, ctx: click.Context) -> Any:
        return _guarded(ctx, super().invoke)


@click.group("hosts", cls=_Hosts, invoke_without_command=True)
@_json
@_url
@click.pass_context
def hosts_(ctx: click.Context, as_json: bool, url: str | None) -> None:
    """Show the hosts; drain one, or let it work again."""
    ctx.obj = (as_json, url)
    if ctx.invoked_subcommand is None:
        _list_hosts(as_json, url)


def _list_hosts(as_json: bool, url: str | None) -> None:
    found = _client(url).get("/hosts")
    if as_json:
        put_json(found)
        return
    from . import shown

    if found:
        shown.show(shown.hosts(found))
    else:
        say("no hosts")


def _host_command(name: str, words: str) -> None:
    @hosts_.command(name, help=words)
    @click.argument("host", metavar="HOST")
    @_why
    @_who
    @_json
    @_url
    @click.pass_obj
    def act(
        told: tuple[bool, str | None], host: str, reason: str, who: str | None, as_json: bool,
        url: str | None,
    ) -> None:  # fmt: skip
        from . import asking

        client, where = _client(url or told[1]), asking.path("hosts", host, name)
        _act(client, as_json or told[0], where, who=_me(who), reason=reason)


_host_command("drain", "HOST ends what it has, and gets nothing new; one of a pool goes.")
_host_command("quarantine", "As drain, for trouble that somebody has to look at.")
_host_command("resume", "HOST gets jobs again.")


# -- logs ---------------------------------------------------------------------------


@click.command(cls=_Command)
@_build
@_stage
@click.option("-f", "--follow", is_flag=True, help="As it grows, until the stage has ended.")
@click.option("--run", "number", metavar="N", type=click.IntRange(1), help="Default: the last.")
@_url
def logs(build: str, stage: str, follow: bool, number: int | None, url: str | None) -> None:
    """Print what the install command and the tests of STAGE print.

    Lines of a stage with several hosts begin with the name of the host.
    """
    from . import following

    client = _client(url)
    following.logs(client, _number(client, build), stage, number, follow, say)


ALL: Iterable[click.Command] = (
    up, check, builds_, show, tag, untag, approve, hold, rerun, cancel, hosts_, logs, poke,
)  # fmt: skip
