"""``python -m dispatcher``: its commands without the rest of ``nosejobs``."""

from __future__ import annotations

import click

from .cli.commands import ALL

if __name__ == "__main__":
    click.Group("nosejobs", commands=list(ALL)).main()
