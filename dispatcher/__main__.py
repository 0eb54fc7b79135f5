"""The entry point ``python -m dispatcher``: the dispatcher's commands without other ones."""

from __future__ import annotations

from shell_runner.cli.console import SuggestingGroup

from .cli.commands import ALL_COMMANDS

if __name__ == "__main__":
    SuggestingGroup("nosejobs", commands=list(ALL_COMMANDS)).main()
