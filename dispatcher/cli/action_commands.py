"""The commands that act on builds, stages, sources and hosts: ``nosejobs tag|hold|poke|...``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from shell_runner.cli.console import SuggestingGroup, print_json, print_message, print_result
from shell_runner.text import format_count

from .common import (
    Command,
    actor_name,
    actor_option,
    api_client,
    build_argument,
    build_number,
    json_option,
    print_action_result,
    reason_option,
    report_errors,
    required_reason_option,
    stage_argument,
    url_option,
)

if TYPE_CHECKING:
    from .api_client import ApiClient


def _post(client: ApiClient, as_json: bool, url_path: str, **body: Any) -> None:
    print_action_result(client.post(url_path, **body), as_json)


class StageRequest(NamedTuple):
    """The arguments and options that all commands for a stage have."""

    url: str | None
    build: str
    stage: str
    actor: str | None
    reason: str
    as_json: bool

    def post(self, action: str, **body: Any) -> Any:
        """Request an action; return the result."""
        from .api_client import build_path

        client = api_client(self.url)
        url_path = build_path(
            "builds", build_number(client, self.build), "stages", self.stage, action
        )
        return client.post(url_path, actor=actor_name(self.actor), reason=self.reason, **body)

    def print_result_of(self, action: str) -> None:
        """Request an action, and print the result."""
        print_action_result(self.post(action), self.as_json)


def _stage_options(
    reason: Callable[[Any], Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the arguments and options of all commands for a stage."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            request = StageRequest(*(given.pop(name) for name in StageRequest._fields))
            command(request, **given)

        for option in (
            url_option,
            json_option,
            actor_option,
            reason,
            stage_argument,
            build_argument,
        ):
            run = option(run)
        return run

    return decorate


@click.command("tag", cls=Command)
@_stage_options(required_reason_option)
@click.option("--revoke", is_flag=True, help="Revoke the tags instead, as untag does.")
def tag_stage(request: StageRequest, revoke: bool) -> None:
    """Tag BUILD by hand, as if it had passed STAGE."""
    request.print_result_of("revoke" if revoke else "tag")


@click.command("untag", cls=Command)
@_stage_options(required_reason_option)
def revoke_tags(request: StageRequest) -> None:
    """Revoke the tags of STAGE; they stay in the database."""
    request.print_result_of("revoke")


@click.command("approve", cls=Command)
@_stage_options(reason_option)
def approve_stage(request: StageRequest) -> None:
    """Let STAGE run: open its gate, or end a hold."""
    request.print_result_of("approve")


@click.command("hold", cls=Command)
@_stage_options(reason_option)
def hold_stage(request: StageRequest) -> None:
    """Keep STAGE from running until it is approved."""
    request.print_result_of("hold")


@click.command("rerun", cls=Command)
@_stage_options(reason_option)
@click.option(
    "--failed",
    is_flag=True,
    help="Run only the tests that failed or were lost with a host.",
)
def rerun_stage(request: StageRequest, failed: bool) -> None:
    """Run STAGE again, or only its failed tests.

    The stage named build is the build command.
    """
    found = request.post("rerun", failed_only=failed)
    if request.as_json:
        print_json(found)
        return
    some = (
        f", {format_count(found['selected_test_count'], 'test')}"
        if found["selected_test_count"] is not None
        else ""
    )
    print_result(f"run {found['number']} of {found['stage']}{some}")


@click.command("cancel", cls=Command)
@build_argument
@click.argument("stage", metavar="[STAGE]", required=False)
@reason_option
@actor_option
@json_option
@url_option
def cancel_runs(
    build: str, stage: str | None, reason: str, actor: str | None, as_json: bool, url: str | None
) -> None:
    """Cancel STAGE, or all stages of BUILD that have not ended."""
    from .api_client import build_path

    client = api_client(url)
    number = build_number(client, build)
    parts = ("builds", number, "stages", stage) if stage else ("builds", number)
    _post(
        client,
        as_json,
        build_path(*parts, "cancel"),
        actor=actor_name(actor),
        reason=reason,
    )


@click.command("poke", cls=Command)
@click.argument("source")
@reason_option
@actor_option
@json_option
@url_option
def poke_source(
    source: str, reason: str, actor: str | None, as_json: bool, url: str | None
) -> None:
    """Let the dispatcher poll SOURCE now; for repository hooks."""
    from .api_client import build_path

    url_path = build_path("poke", source)
    _post(api_client(url), as_json, url_path, actor=actor_name(actor), reason=reason)


class _HostsGroup(SuggestingGroup):
    """A group whose errors are reported."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the group, which lists the hosts, or its command."""
        return report_errors(ctx, super().invoke)


@click.group("hosts", cls=_HostsGroup, invoke_without_command=True)
@json_option
@url_option
@click.pass_context
def list_hosts(ctx: click.Context, as_json: bool, url: str | None) -> None:
    """List the hosts; drain, quarantine or resume one."""
    ctx.obj = (as_json, url)
    if ctx.invoked_subcommand is None:
        _print_hosts(as_json, url)


def _print_hosts(as_json: bool, url: str | None) -> None:
    found = api_client(url).get("/hosts")
    if as_json:
        print_json(found)
        return
    from . import tables

    if found:
        tables.print_table(tables.format_hosts(found))
    else:
        print_message("there are no hosts")


def _host_command(name: str, help_text: str) -> None:
    @list_hosts.command(name, help=help_text)
    @click.argument("host", metavar="HOST")
    @reason_option
    @actor_option
    @json_option
    @url_option
    @click.pass_obj
    def run_host_action(
        group_options: tuple[bool, str | None], host: str, reason: str, actor: str | None,
        as_json: bool, url: str | None,
    ) -> None:  # fmt: skip
        from .api_client import build_path

        client = api_client(url or group_options[1])
        url_path = build_path("hosts", host, name)
        _post(client, as_json or group_options[0], url_path, actor=actor_name(actor), reason=reason)


_host_command(
    "drain", "Let HOST finish its jobs and get no new ones.\n\nA host of a pool is then removed."
)
_host_command(
    "quarantine",
    "Give HOST no new jobs until it is resumed.\n\nFor example, to look into a problem.",
)
_host_command("resume", "Give HOST jobs again.")
