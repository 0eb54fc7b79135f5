"""Output and errors of the command line, as all of its commands share them.

Lies below every command: must not import one.
"""

from __future__ import annotations

import json
from typing import Any

import click

from ..errors import NosejobsError
from ..text import strip_control_chars


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


def print_message(words: str) -> None:
    """Print a message for the user on standard error, without control characters."""
    click.echo(strip_control_chars(words), err=True)


def print_result(words: str) -> None:
    """Print a result on standard output, without control characters."""
    click.echo(strip_control_chars(words))


def print_json(value: Any) -> None:
    """Print ``value`` as JSON on standard output.

    It is ASCII, so that no text from a host or a repository can control a terminal.
    """
    click.echo(json.dumps(value, indent=2))
