"""The routes of actions of people and repository hooks on builds, stages, hosts and sources.

``reconciler.actions`` defines what an action does.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable
from typing import Any

from fastapi import Request
from sqlalchemy import Connection
from starlette.exceptions import HTTPException

from shell_runner.remote.jobs.webhook import SIGNATURE_HEADER, sign
from shell_runner.remote.protocol.job import is_uuid
from shell_runner.text import to_single_line

from ..reconciler import user_actions
from ..store import StoreError, audit
from . import schemas
from .errors import NotFound
from .parameters import (
    HostName,
    RowNumber,
    ShortName,
    context_of,
    make_router,
)

routes = make_router()


def _perform(
    request: Request,
    action: schemas.ActionRequest | schemas.ReasonRequest,
    do: Callable[[Connection, user_actions.Attribution], Any],
) -> Any:
    """Perform an action in one transaction, whose commit wakes waiting threads."""
    by = user_actions.Attribution(action.actor, action.reason, time.time())
    with context_of(request).store.write() as connection:
        return do(connection, by)


def _action_result(changed: bool, message: str, before: str) -> schemas.ActionResult:
    return schemas.ActionResult(changed=changed, message=message if changed else before)


@routes.post("/builds/{build}/stages/{stage}/approve")
def approve_stage(
    request: Request, build: RowNumber, stage: ShortName, action: schemas.ActionRequest
) -> schemas.ActionResult:
    """Let a stage run: open its gate, or end a hold."""
    new = _perform(request, action, lambda c, by: user_actions.approve(c, build, stage, by))
    what = f"{stage} of build {build}"
    return _action_result(new, f"{what} is approved", f"{what} was approved before")


@routes.post("/builds/{build}/stages/{stage}/hold")
def hold_stage(
    request: Request, build: RowNumber, stage: ShortName, action: schemas.ActionRequest
) -> schemas.ActionResult:
    """Keep a stage from running until it is approved."""
    new = _perform(request, action, lambda c, by: user_actions.hold(c, build, stage, by))
    what = f"{stage} of build {build}"
    return _action_result(new, f"{what} is held", f"{what} was held before")


@routes.post("/builds/{build}/stages/{stage}/tag")
def tag_stage(
    request: Request, build: RowNumber, stage: ShortName, action: schemas.ReasonRequest
) -> schemas.ActionResult:
    """Tag a build by hand."""
    new = _perform(request, action, lambda c, by: user_actions.tag(c, build, stage, by))
    what = f"build {build} is tagged {stage}"
    return _action_result(new, f"{what} by hand", f"{what} by hand already")


@routes.post("/builds/{build}/stages/{stage}/revoke")
def revoke_tags(
    request: Request, build: RowNumber, stage: ShortName, action: schemas.ReasonRequest
) -> schemas.ActionResult:
    """Revoke the tags of a stage; they stay, with the reason."""
    count = _perform(request, action, lambda c, by: user_actions.revoke(c, build, stage, by))
    subject, verb = (f"{count} tags", "are") if count > 1 else ("the tag", "is")
    return _action_result(count > 0, f"{subject} {stage} of build {build} {verb} revoked", "")


@routes.post("/builds/{build}/stages/{stage}/rerun", status_code=201)
def rerun_stage(
    request: Request, build: RowNumber, stage: ShortName, action: schemas.RerunRequest
) -> schemas.StageRun:
    """Run a stage again, or those of its tests that failed."""
    run = _perform(
        request, action, lambda c, by: user_actions.rerun(c, build, stage, by, action.failed_only)
    )
    return schemas.to_stage_run(run)


@routes.post("/builds/{build}/stages/{stage}/cancel")
def cancel_stage(
    request: Request, build: RowNumber, stage: ShortName, action: schemas.ActionRequest
) -> schemas.ActionResult:
    """Cancel the run of a stage."""
    _perform(request, action, lambda c, by: user_actions.cancel(c, build, by, stage))
    return schemas.ActionResult(changed=True, message=f"{stage} of build {build} is canceled")


@routes.post("/builds/{build}/cancel")
def cancel_build(
    request: Request, build: RowNumber, action: schemas.ActionRequest
) -> schemas.ActionResult:
    """Cancel all stages of a build that have not ended."""
    runs = _perform(request, action, lambda c, by: user_actions.cancel(c, build, by))
    names = ", ".join(run.stage for run in runs)
    return schemas.ActionResult(
        changed=True, message=f"build {build} is canceled{names and f': {names}'}"
    )


#: Function of each action on a host, and the effect on the host.
_HOST_ACTIONS = {
    "drain": (user_actions.drain, "is draining: it finishes its jobs and gets no new ones"),
    "quarantine": (
        user_actions.quarantine,
        "is quarantined: it gets no new jobs until it is resumed",
    ),
    "resume": (user_actions.resume, "gets jobs again"),
}


def _host_action(name: str) -> Callable[..., schemas.ActionResult]:
    function, message = _HOST_ACTIONS[name]

    def act(
        request: Request, host: HostName, action: schemas.ActionRequest
    ) -> schemas.ActionResult:
        new = _perform(request, action, lambda c, by: function(c, host, by))
        return _action_result(
            new, f"host {host} {message}", f"host {host} is in that state already"
        )

    act.__name__, act.__doc__ = (
        f"{name}_host",
        f"{name.capitalize()} a host: afterwards it {message}.",
    )
    return act


for _name in _HOST_ACTIONS:
    routes.post(f"/hosts/{{host}}/{_name}")(_host_action(_name))


@routes.post("/poke/{source}", status_code=202)
def poke_source(
    request: Request, source: ShortName, action: schemas.PollRequest | None = None
) -> schemas.ActionResult:
    """Poll a source now; for repository hooks.  The body may be left out."""
    context = context_of(request)
    service = context.service
    names = [each.name for each in service.settings.sources]
    if source not in names:
        hint = user_actions.suggest(source, names, "there is none in the dispatcher's file")
        raise NotFound(f"there is no source {source!r}{hint}")
    service.poke(source)  # first: the build of a commit does not wait for the audit log
    actor, reason = (action.actor, action.reason) if action else ("", "")
    detail = ": ".join(filter(None, [f"from {_caller(request)}", reason]))
    message = f"polling {source} now"
    try:
        with context.store.write(quiet=True) as connection:
            audit.write(connection, time.time(), f"poke {source}", detail, actor=actor)
    except StoreError as error:
        message = f"{message}; no entry in the audit log: {error}"
    return schemas.ActionResult(changed=True, message=message)


def _caller(request: Request) -> str:
    """Return the address of the client and the program that it says it is."""
    program = to_single_line(request.headers.get("user-agent", ""), 100)
    address = request.client.host if request.client else "unknown address"
    return f"{address}, {program}" if program else address


@routes.post("/notify", status_code=202)
async def receive_notification(request: Request) -> schemas.ActionResult:
    """Accept a host's hint that a job has ended, so that the host is asked sooner.

    The hint is signed as by ``nosejobs job submit --notify``; the job's row does not change.
    """
    context = context_of(request)
    body = await request.body()
    given_signature = request.headers.get(SIGNATURE_HEADER, "")
    wanted_signature = sign(context.secret, body)
    if not hmac.compare_digest(given_signature.encode("latin-1"), wanted_signature.encode()):
        raise HTTPException(
            403, "the notification is not signed with the secret of this dispatcher"
        )
    try:
        notification = json.loads(body)
    except (ValueError, RecursionError):
        notification = None
    if not isinstance(notification, dict) or not is_uuid(notification.get("id")):
        raise HTTPException(422, "the notification names no job")
    context.store.wake()
    message = f"asking the host of job {notification['id']} now"
    return schemas.ActionResult(changed=False, message=message)
