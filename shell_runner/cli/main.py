"""The command ``nosejobs`` with its groups ``ca``, ``agent`` and ``job``.

Other packages add groups by entry points in ``nosejobs.commands``.  A group that takes long to
import is imported when it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import __version__
from .ca import ca
from .console import CliError, CommandGroup


class _MainGroup(CommandGroup):
    """The top-level group, which includes the commands of other packages.

    A command that cannot be loaded is an error only when it is used.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), "job", *_find_entry_points().names})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name == "job":
            from .job import job  # its imports take a while

            return job
        command = super().get_command(ctx, name)
        if command is not None or name not in _find_entry_points().names:
            return command
        try:
            loaded = _find_entry_points()[name].load()
        except ImportError as error:
            raise CliError(f"the command {name!r} cannot be loaded: {error}") from error
        return loaded if isinstance(loaded, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write two lists: the commands of this package, and those of the dispatcher."""
        names = self.list_commands(ctx)
        own = {*super().list_commands(ctx), "job"}
        limit = formatter.width - 6 - max(map(len, names))
        for title, is_own in (("Hosts", True), ("Dispatcher", False)):
            rows = [
                (name, command.get_short_help_str(limit))
                for name in names
                if (name in own) is is_own and (command := self.get_command(ctx, name)) is not None
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _find_entry_points() -> Any:
    from importlib.metadata import entry_points  # takes longer to load than most commands run

    return entry_points(group="nosejobs.commands")


@click.group(cls=_MainGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nosejobs")
def main() -> None:
    """Run shell tests on hosts; run a dispatcher of builds."""


main.add_command(ca)


# -- the agent ----------------------------------------------------------------------


@main.group(cls=CommandGroup)
def agent() -> None:
    """Write the agent, which accepts connections on a host, to a file.

    Where this package is installed, nosejobs-agent starts the agent.
    """


@agent.command()
@click.argument("file", type=click.Path(path_type=Path))
def zipapp(file: Path) -> None:
    """Write the agent to FILE, a zipapp that needs only Python >= 3.8."""
    from ..hosts import agent_zipapp

    agent_zipapp.write(file)
    click.echo(f"{file}: copy it to a host and start it there: python3 {file.name} HOST.pem")


if __name__ == "__main__":
    main()
