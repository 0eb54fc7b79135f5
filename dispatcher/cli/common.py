"""The options, arguments, errors and exit statuses that all commands of the dispatcher share.

Loads nothing at its top that a help text can do without.
"""

from __future__ import annotations

import getpass
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shell_runner.cli.console import CliError, put, put_json, say
from shell_runner.errors import NosejobsError
from shell_runner.text import strip_control_chars

if TYPE_CHECKING:
    from .api_client import Client

#: Exit statuses; 130 and 141 are those of a shell for SIGINT and SIGPIPE.
INFRASTRUCTURE, INTERRUPTED, OUTPUT_CLOSED = 6, 130, 141
#: Exceptions that an answer raises if it does not have the shape of a dispatcher's.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
#: Key of a click context whose command reads answers of a server.
_CONNECTED = "nosejobs.asked"
#: Seconds to wait for the build of a pushed commit: by default, sources are polled every 30 s.
_MAX_BUILD_WAIT = 60.0
#: Minimum length of the beginning of a revision that names a build.
_MIN_REVISION_CHARS = 4

url_option = click.option(
    "--url",
    metavar="URL",
    help="The dispatcher's; default: $NOSEJOBS_URL, else what the dispatcher.toml here says.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
who_option = click.option("--who", metavar="NAME", help="Who does it; default: you.")
reason_option = click.option("--reason", metavar="WORDS", default="", help="Why, for the record.")
required_reason_option = click.option(
    "--reason", metavar="WORDS", required=True, help="Why, for the record."
)
build_argument = click.argument("build", metavar="BUILD")
stage_argument = click.argument("stage", metavar="STAGE")


class DispatcherUnavailable(CliError):
    """The dispatcher cannot be reached, or answers like another program."""

    exit_code = INFRASTRUCTURE


def report_errors(ctx: click.Context, call: Callable[[click.Context], Any]) -> Any:
    """Call a command; show errors without a traceback, and set the exit status."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            # Text that the terminal cannot write must not end a command.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return call(ctx)
    except NosejobsError as error:
        kind = DispatcherUnavailable if type(error).__name__ == "Unreachable" else CliError
        raise kind(strip_control_chars(str(error))) from error
    except _MALFORMED as error:
        if _CONNECTED not in ctx.meta:
            raise
        raise DispatcherUnavailable(_malformed_message(error)) from error
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ctx.exit(OUTPUT_CLOSED)
    except KeyboardInterrupt:
        say("interrupted; the dispatcher goes on")
        ctx.exit(INTERRUPTED)


def _malformed_message(error: Exception) -> str:
    """Return the message for a malformed answer; exit status 1 would be that of a failed build."""
    what = strip_control_chars(f"{type(error).__name__}: {error}"[:200])
    words = f"what the dispatcher has answered cannot be understood ({what})"
    return f"{words}\n  is it another program, or another version? try: --url"


class Command(click.Command):
    """A command whose errors are reported, and whose help says how to name a build."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if any(each.name == "build" for each in self.params):
            self.epilog = "BUILD is its number, the beginning of its revision, or latest."

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        return report_errors(ctx, super().invoke)


def api_client(url: str | None) -> Client:
    """Return a client of the dispatcher at ``url``, or at its default address."""
    from . import api_client as asking

    found = asking.Client(asking.address(url, Path.cwd()))
    click.get_current_context().meta[_CONNECTED] = True
    return found


def user_name(who: str | None) -> str:
    """Return ``who``, or the name of the user who runs the command."""
    if who:
        return who
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def build_number(client: Client, text: str, soon: bool = False) -> int:
    """Return the number of a build: ``text`` is that, the beginning of a revision, or ``latest``.

    ``soon``: wait up to a minute for the build of a revision that was just pushed.
    """
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    if text == "latest":
        found = client.get("/builds", most=1)
    elif re.fullmatch(rf"[0-9a-f]{{{_MIN_REVISION_CHARS},64}}", text):
        found = client.get("/builds", most=1, revision=text)
        if soon and not found:
            found = _wait_for_build(client, text)
    else:
        words = "write its number, 4 or more characters of its revision, or latest"
        raise click.UsageError(f"{text!r} is no build: {words}")
    if not found:
        raise CliError(f"there is no build {text}\n  try: nosejobs builds")
    return int(found[0]["number"])


def _wait_for_build(client: Client, revision: str) -> Any:
    """Return a list with the build of a revision, once it exists; empty if it does not come."""
    from .api_client import patient

    say(f"there is no build of {revision} yet; waits for one, up to {_MAX_BUILD_WAIT:.0f} s")
    deadline = time.monotonic() + _MAX_BUILD_WAIT
    found: Any = []
    tag = ""
    while not found and time.monotonic() < deadline:
        ask = partial(client.news, "/builds", tag, most=1, revision=revision)
        news, tag = patient(ask, say)
        found = news or []
    return found


def print_answer(answer: Any, as_json: bool) -> None:
    """Print the answer to an action."""
    if as_json:
        put_json(answer)
    else:
        put(answer["words"])
