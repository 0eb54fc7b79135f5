"""The routes by which people and hooks act on builds, stages, hosts and sources.

What an action does is in ``actions``.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import Connection
from starlette.exceptions import HTTPException

from shell_runner.remote.jobs.webhook import SIGNATURE, signature
from shell_runner.remote.protocol.job import is_uuid
from shell_runner.text import to_single_line

from ..reconciler import actions
from ..store import StoreError, audit
from . import schemas
from .errors import NotFound
from .parameters import PROBLEMS, ROOT, HostName, RowNumber, ShortName, context_of

routes = APIRouter(prefix=ROOT, responses=PROBLEMS)


def _perform(
    request: Request,
    asked: schemas.Action | schemas.Reasoned,
    do: Callable[[Connection, actions.By], Any],
) -> Any:
    """Perform an action in one transaction, whose commit wakes waiting threads."""
    by = actions.By(asked.who, asked.reason, time.time())
    with context_of(request).store.write() as connection:
        return do(connection, by)


def _done(changed: bool, words: str, before: str) -> schemas.Done:
    return schemas.Done(changed=changed, words=words if changed else before)


@routes.post("/builds/{build}/stages/{stage}/approve")
def approve(
    request: Request, build: RowNumber, stage: ShortName, asked: schemas.Action
) -> schemas.Done:
    """Let a stage run: open its gate, or end a hold."""
    new = _perform(request, asked, lambda c, by: actions.approve(c, build, stage, by))
    what = f"{stage} of build {build}"
    return _done(new, f"{what} is approved", f"{what} was approved before")


@routes.post("/builds/{build}/stages/{stage}/hold")
def hold(
    request: Request, build: RowNumber, stage: ShortName, asked: schemas.Action
) -> schemas.Done:
    """Keep a stage from running until it is approved."""
    new = _perform(request, asked, lambda c, by: actions.hold(c, build, stage, by))
    what = f"{stage} of build {build}"
    return _done(new, f"{what} is held", f"{what} was held before")


@routes.post("/builds/{build}/stages/{stage}/tag")
def tag(
    request: Request, build: RowNumber, stage: ShortName, asked: schemas.Reasoned
) -> schemas.Done:
    """Tag a build by hand."""
    new = _perform(request, asked, lambda c, by: actions.tag(c, build, stage, by))
    what = f"build {build} is tagged {stage}"
    return _done(new, f"{what} by hand", f"{what} by hand already")


@routes.post("/builds/{build}/stages/{stage}/revoke")
def revoke(
    request: Request, build: RowNumber, stage: ShortName, asked: schemas.Reasoned
) -> schemas.Done:
    """Revoke the tags of a stage; they stay, with the reason."""
    count = _perform(request, asked, lambda c, by: actions.revoke(c, build, stage, by))
    many = f"{count} tags" if count > 1 else "the tag"
    return _done(count > 0, f"{many} {stage} of build {build} revoked", "")


@routes.post("/builds/{build}/stages/{stage}/rerun", status_code=201)
def rerun(
    request: Request, build: RowNumber, stage: ShortName, asked: schemas.Rerun
) -> schemas.Run:
    """Run a stage again, or those of its tests that failed."""
    run = _perform(request, asked, lambda c, by: actions.rerun(c, build, stage, by, asked.failed))
    return schemas.run_of(run)


@routes.post("/builds/{build}/stages/{stage}/cancel")
def cancel_stage(
    request: Request, build: RowNumber, stage: ShortName, asked: schemas.Action
) -> schemas.Done:
    """End the run of a stage."""
    _perform(request, asked, lambda c, by: actions.cancel(c, build, by, stage))
    return schemas.Done(changed=True, words=f"{stage} of build {build} is cancelled")


@routes.post("/builds/{build}/cancel")
def cancel_build(request: Request, build: RowNumber, asked: schemas.Action) -> schemas.Done:
    """End all that is to come of a build."""
    found = _perform(request, asked, lambda c, by: actions.cancel(c, build, by))
    names = ", ".join(run.stage for run in found)
    return schemas.Done(changed=True, words=f"build {build} is cancelled{names and f': {names}'}")


#: Function of each action on a host, and what the host then does.
_HOST_ACTIONS = {
    "drain": (actions.drain, "ends what it has, and gets nothing new"),
    "quarantine": (actions.quarantine, "gets nothing new until it is resumed"),
    "resume": (actions.resume, "gets jobs again"),
}


def _host_action(name: str) -> Callable[..., schemas.Done]:
    function, words = _HOST_ACTIONS[name]

    def act(request: Request, host: HostName, asked: schemas.Action) -> schemas.Done:
        new = _perform(request, asked, lambda c, by: function(c, host, by))
        return _done(new, f"host {host} {words}", f"host {host} is in that state already")

    act.__name__, act.__doc__ = f"{name}_host", f"A host {words}."
    return act


for _name in _HOST_ACTIONS:
    routes.post(f"/hosts/{{host}}/{_name}")(_host_action(_name))


@routes.post("/poke/{source}", status_code=202)
def poke(request: Request, source: ShortName, asked: schemas.Rung | None = None) -> schemas.Done:
    """Poll a source now; for hooks of repositories.  The body may be left out."""
    context = context_of(request)
    service = context.service
    names = [each.name for each in service.settings.sources]
    if source not in names:
        hint = actions.suggested(source, names, "there is none in the dispatcher's file")
        raise NotFound(f"there is no source {source!r}{hint}")
    service.poke(source)  # first: the build of a commit does not wait for the audit log
    who, why = (asked.who, asked.reason) if asked else ("", "")
    told = ": ".join(filter(None, [f"from {_caller(request)}", why]))
    words = f"{source} is looked at"
    try:
        with context.store.write(quiet=True) as connection:
            audit.write(connection, time.time(), f"poke {source}", told, who=who)
    except StoreError as error:
        words = f"{words}; the audit does not have it: {error}"
    return schemas.Done(changed=True, words=words)


def _caller(request: Request) -> str:
    """Return the address of the client and the program that it says it is."""
    program = to_single_line(request.headers.get("user-agent", ""), 100)
    address = request.client.host if request.client else "an address that is not known"
    return f"{address}, {program}" if program else address


@routes.post("/notify", status_code=202)
async def notify(request: Request) -> schemas.Done:
    """Accept a host's hint that a job has ended, so that the host is asked sooner.

    The hint is signed as by ``nosejobs job submit --notify``; the job's row does not change.
    """
    context = context_of(request)
    body = await request.body()
    given = request.headers.get(SIGNATURE, "")
    wanted = signature(context.secret, body)
    if not hmac.compare_digest(given.encode("latin-1"), wanted.encode()):
        raise HTTPException(
            403, "the notification is not signed with the secret of this dispatcher"
        )
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not is_uuid(told.get("job")):
        raise HTTPException(422, "the notification names no job")
    context.store.wake()
    return schemas.Done(changed=False, words=f"job {told['job']} is looked at")
