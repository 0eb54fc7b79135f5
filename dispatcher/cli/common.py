"""The options, arguments, errors and exit statuses that all commands of the dispatcher share.

Modules that a help text does not need are imported in functions.
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

from shell_runner.cli.console import (
    INFRASTRUCTURE,
    INTERRUPTED,
    OUTPUT_CLOSED,
    CliError,
    print_json,
    print_message,
    print_result,
)
from shell_runner.errors import NosejobsError
from shell_runner.text import strip_control_chars

if TYPE_CHECKING:
    from .api_client import ApiClient

#: Exceptions that are raised if a response does not have the shape of a dispatcher's.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
#: Key of a click context whose command reads responses of a server.
_HAS_CLIENT = "nosejobs.has_client"
#: Seconds to wait for the build of a pushed commit: by default, sources are polled every 30 s.
_MAX_BUILD_WAIT = 60.0
#: Minimum length of the beginning of a revision that names a build.
_MIN_REVISION_CHARS = 4

url_option = click.option(
    "--url",
    metavar="URL",
    help="URL of the dispatcher; default: $NOSEJOBS_URL, else from dispatcher.toml here.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
actor_option = click.option(
    "--actor", metavar="NAME", help="Name for the audit log; default: your user name."
)
reason_option = click.option(
    "--reason", metavar="TEXT", default="", help="Reason for the audit log."
)
required_reason_option = click.option(
    "--reason", metavar="TEXT", required=True, help="Reason for the audit log."
)
build_argument = click.argument("build", metavar="BUILD")
stage_argument = click.argument("stage", metavar="STAGE")


class DispatcherUnavailable(CliError):
    """The dispatcher cannot be reached, or its response is malformed."""

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
        is_unreachable = type(error).__name__ == "DispatcherUnreachable"
        kind = DispatcherUnavailable if is_unreachable else CliError
        raise kind(strip_control_chars(str(error))) from error
    except _MALFORMED as error:
        if _HAS_CLIENT not in ctx.meta:
            raise
        raise DispatcherUnavailable(_malformed_message(error)) from error
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ctx.exit(OUTPUT_CLOSED)
    except KeyboardInterrupt:
        print_message("interrupted; the dispatcher continues")
        ctx.exit(INTERRUPTED)


def _malformed_message(error: Exception) -> str:
    """Return the message for a malformed response.

    The exit status of an unhandled exception, 1, would be that of a failed build.
    """
    error_text = strip_control_chars(f"{type(error).__name__}: {error}"[:200])
    message = f"the response of the dispatcher is malformed ({error_text})"
    return f"{message}\n  is it another program or version? try: --url"


class Command(click.Command):
    """A command whose errors are reported, and whose help says how to name a build."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if any(each.name == "build" for each in self.params):
            self.epilog = "BUILD is a number, the beginning of a revision, or latest."

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        return report_errors(ctx, super().invoke)


def api_client(url: str | None) -> ApiClient:
    """Return a client of the dispatcher at ``url``, or at its default address."""
    from .api_client import ApiClient, find_url

    client = ApiClient(find_url(url, Path.cwd()))
    click.get_current_context().meta[_HAS_CLIENT] = True
    return client


def actor_name(actor: str | None) -> str:
    """Return ``who``, or the name of the user who runs the command."""
    if actor:
        return actor
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def build_number(client: ApiClient, text: str, soon: bool = False) -> int:
    """Return the number of a build: ``text`` is that, the beginning of a revision, or ``latest``.

    ``soon``: wait up to a minute for the build of a revision that was just pushed.
    """
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    if text == "latest":
        found = client.get("/builds", limit=1)
    elif re.fullmatch(rf"[0-9a-f]{{{_MIN_REVISION_CHARS},64}}", text):
        found = client.get("/builds", limit=1, revision=text)
        if soon and not found:
            found = _wait_for_build(client, text)
    else:
        hint = "give a build number, 4 or more characters of its revision, or latest"
        raise click.UsageError(f"{text!r} is not a build; {hint}")
    if not found:
        raise CliError(f"there is no build {text}\n  try: nosejobs builds")
    return int(found[0]["number"])


def _wait_for_build(client: ApiClient, revision: str) -> Any:
    """Return a list with the build of a revision, once it exists; empty if it does not come."""
    from .api_client import retry_until_reachable

    print_message(f"no build of {revision} yet; waiting for it up to {_MAX_BUILD_WAIT:.0f} s")
    deadline = time.monotonic() + _MAX_BUILD_WAIT
    found: Any = []
    etag = ""
    while not found and time.monotonic() < deadline:
        ask = partial(client.wait_for_change, "/builds", etag, limit=1, revision=revision)
        changed, etag = retry_until_reachable(ask, print_message)
        found = changed or []
    return found


def print_action_result(result: Any, as_json: bool) -> None:
    """Print the result of an action."""
    if as_json:
        print_json(result)
    else:
        print_result(result["message"])
