"""The group of the commands ``nosejobs job ...``, which maps errors to exit statuses."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ..errors import HostError, JobRefused
from .console import (
    INFRASTRUCTURE,
    INTERRUPTED,
    OUTPUT_CLOSED,
    CliError,
    CommandGroup,
    print_message,
)


class HostCliError(CliError):
    """A host failed, or the connection to it."""

    exit_code = INFRASTRUCTURE


class JobGroup(CommandGroup):
    """The group of commands; its exit status tells a failed host from a mistake of the user."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CliError as error:
            if _is_host_error(error.__cause__):
                raise HostCliError(error.message) from error.__cause__
            if isinstance(error.__cause__, BrokenPipeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                ctx.exit(OUTPUT_CLOSED)
            raise
        except KeyboardInterrupt:
            print_message("interrupted; submitted jobs continue")
            ctx.exit(INTERRUPTED)


def _is_host_error(error: BaseException | None) -> bool:
    """Return whether the host caused the error, and not the request."""
    if isinstance(error, JobRefused):
        return error.kind in ("disk", "read-only", "corrupt")
    return isinstance(error, HostError)
