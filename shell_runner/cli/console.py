"""Output and errors that all commands share.

Must not import a command.
"""

from __future__ import annotations

import json
from typing import Any

import click

from ..errors import NosejobsError
from ..text import strip_control_chars
from ..validators import format_suggestion

#: Exit statuses: an infrastructure failure; and those of a shell for SIGINT and SIGPIPE.
INFRASTRUCTURE, INTERRUPTED, OUTPUT_CLOSED = 6, 130, 141


class CliError(click.ClickException):
    """An error that ends a command: its message on standard error, and exit status 2."""

    exit_code = 2


class SuggestingGroup(click.Group):
    """A group that names the command that was probably meant, or all commands, for a typo."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names.

        click would suggest only the commands that this program has imported already.
        """
        name = args[0]
        is_option = name[:1] == "-"
        if not is_option and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            hint = format_suggestion(name, self.list_commands(ctx))
            ctx.fail(f"No such command {name!r}{hint}")
        return super().resolve_command(ctx, args)


class CommandGroup(SuggestingGroup):
    """A group of commands whose expected errors are shown without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (NosejobsError, OSError) as error:
            raise CliError(_describe_error(error)) from error


def _describe_error(error: Exception) -> str:
    """Return the message of an error, with the files of an OSError but without its number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    files = " -> ".join(str(each) for each in (error.filename, error.filename2) if each is not None)
    return f"{files}: {error.strerror}" if files else error.strerror


def print_message(message: str) -> None:
    """Print a message for the user on standard error, without control characters."""
    click.echo(strip_control_chars(message), err=True)


def print_result(text: str) -> None:
    """Print a result on standard output, without control characters."""
    click.echo(strip_control_chars(text))


def print_json(value: Any) -> None:
    """Print ``value`` as JSON on standard output.

    The JSON is ASCII, so that no text of a host or a repository can control a terminal.
    """
    click.echo(json.dumps(value, indent=2))
