"""The entry point ``python -m dispatcher``: the dispatcher's commands without other ones."""

from __future__ import annotations

import click

from .cli.commands import ALL_COMMANDS

if __name__ == "__main__":
    click.Group("nosejobs", commands=list(ALL_COMMANDS)).main()
