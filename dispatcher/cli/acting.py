"""The commands that act on builds, stages, sources and hosts: ``nosejobs tag|hold|poke|...``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from shell_runner.cli.console import put, put_json, say

from .common import (
    Command,
    api_client,
    build_argument,
    build_number,
    json_option,
    print_answer,
    reason_option,
    report_errors,
    required_reason_option,
    stage_argument,
    url_option,
    user_name,
    who_option,
)

if TYPE_CHECKING:
    from .api_client import Client


def _post(client: Client, as_json: bool, where: str, **body: Any) -> None:
    print_answer(client.post(where, **body), as_json)


class StageRequest(NamedTuple):
    """The arguments and options that all commands for a stage have."""

    url: str | None
    build: str
    stage: str
    who: str | None
    reason: str
    as_json: bool

    def post(self, action: str, **body: Any) -> Any:
        """Request an action; return the answer."""
        from . import api_client as asking

        client = api_client(self.url)
        where = asking.path(
            "builds", build_number(client, self.build), "stages", self.stage, action
        )
        return client.post(where, who=user_name(self.who), reason=self.reason, **body)

    def act(self, action: str) -> None:
        """Request an action, and print the answer."""
        print_answer(self.post(action), self.as_json)


def _stage_options(
    why: Callable[[Any], Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the arguments and options of all commands for a stage."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def gather(**given: Any) -> None:
            asked = StageRequest(*(given.pop(name) for name in StageRequest._fields))
            command(asked, **given)

        for option in (url_option, json_option, who_option, why, stage_argument, build_argument):
            gather = option(gather)
        return gather

    return decorate


@click.command(cls=Command)
@_stage_options(required_reason_option)
@click.option("--revoke", is_flag=True, help="Revoke its tags instead, as untag does.")
def tag(asked: StageRequest, revoke: bool) -> None:
    """Tag BUILD by hand: it counts as having passed STAGE."""
    asked.act("revoke" if revoke else "tag")


@click.command(cls=Command)
@_stage_options(required_reason_option)
def untag(asked: StageRequest) -> None:
    """Revoke the tags of STAGE; they stay on record."""
    asked.act("revoke")


@click.command(cls=Command)
@_stage_options(reason_option)
def approve(asked: StageRequest) -> None:
    """Let STAGE run: opens its gate, or ends a hold."""
    asked.act("approve")


@click.command(cls=Command)
@_stage_options(reason_option)
def hold(asked: StageRequest) -> None:
    """Keep STAGE from running until somebody approves it."""
    asked.act("hold")


@click.command(cls=Command)
@_stage_options(reason_option)
@click.option("--failed", is_flag=True, help="Only the tests that failed.")
def rerun(asked: StageRequest, failed: bool) -> None:
    """Run STAGE again, or only its tests that failed.

    STAGE build is the build command.
    """
    found = asked.post("rerun", failed=failed)
    if asked.as_json:
        put_json(found)
        return
    some = f", {found['only']} tests" if found["only"] is not None else ""
    put(f"run {found['number']} of {found['stage']}{some}")


@click.command(cls=Command)
@build_argument
@click.argument("stage", metavar="[STAGE]", required=False)
@reason_option
@who_option
@json_option
@url_option
def cancel(
    build: str, stage: str | None, reason: str, who: str | None, as_json: bool, url: str | None
) -> None:
    """End the run of STAGE, or all that is to come of BUILD."""
    from . import api_client as asking

    client = api_client(url)
    number = build_number(client, build)
    parts = ("builds", number, "stages", stage) if stage else ("builds", number)
    _post(client, as_json, asking.path(*parts, "cancel"), who=user_name(who), reason=reason)


@click.command(cls=Command)
@click.argument("source")
@reason_option
@who_option
@json_option
@url_option
def poke(source: str, reason: str, who: str | None, as_json: bool, url: str | None) -> None:
    """Let the dispatcher look at SOURCE now; for hooks of repositories."""
    from . import api_client as asking

    where = asking.path("poke", source)
    _post(api_client(url), as_json, where, who=user_name(who), reason=reason)


class _HostsGroup(click.Group):
    """A group whose errors are reported."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the group, which lists the hosts, or its command."""
        return report_errors(ctx, super().invoke)


@click.group("hosts", cls=_HostsGroup, invoke_without_command=True)
@json_option
@url_option
@click.pass_context
def hosts_(ctx: click.Context, as_json: bool, url: str | None) -> None:
    """Show the hosts; drain one, or let it work again."""
    ctx.obj = (as_json, url)
    if ctx.invoked_subcommand is None:
        _list_hosts(as_json, url)


def _list_hosts(as_json: bool, url: str | None) -> None:
    found = api_client(url).get("/hosts")
    if as_json:
        put_json(found)
        return
    from . import tables

    if found:
        tables.show(tables.hosts(found))
    else:
        say("no hosts")


def _host_command(name: str, words: str) -> None:
    @hosts_.command(name, help=words)
    @click.argument("host", metavar="HOST")
    @reason_option
    @who_option
    @json_option
    @url_option
    @click.pass_obj
    def act(
        told: tuple[bool, str | None], host: str, reason: str, who: str | None, as_json: bool,
        url: str | None,
    ) -> None:  # fmt: skip
        from . import api_client as asking

        client, where = api_client(url or told[1]), asking.path("hosts", host, name)
        _post(client, as_json or told[0], where, who=user_name(who), reason=reason)


_host_command("drain", "HOST ends what it has, and gets nothing new; one of a pool goes.")
_host_command("quarantine", "As drain, for trouble that somebody has to look at.")
_host_command("resume", "HOST gets jobs again.")
