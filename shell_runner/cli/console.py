"""Output and errors that all commands share.

Must not import a command.
"""

from __future__ import annotations

import json
from typing import Any

import click

from ..errors import NosejobsError
from ..text import strip_control_chars

#: Exit statuses: an infrastructure failure; and those of a shell for SIGINT and SIGPIPE.
INFRASTRUCTURE, INTERRUPTED, OUTPUT_CLOSED = 6, 130, 141


class CliError(click.ClickException):
    """An error that ends a command: its message on standard error, and exit status 2."""

    exit_code = 2


class CommandGroup(click.Group):
    """A group of commands whose expected errors are shown without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (NosejobsError, OSError) as error:
            raise CliError(str(error)) from error


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
