"""The parameters that routes share, and the context that they work in."""

from __future__ import annotations

import time
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Path, Query, Request

from shell_runner.errors import UsageError
from shell_runner.text import shorten_list
from shell_runner.validators import format_suggestion

from ..configuration.settings import Settings
from ..hosts.job_logs import JobLogReader
from ..store import Store
from . import schemas
from .change_notifier import ChangeNotifier
from .log_streams import LogStreams

ROOT = "/api/v1"
#: Maximum seconds that a request may wait for a change.
MAX_WAIT = 60.0
#: Maximum number of rows of a list.
MAX_LISTED_ROWS = 500
#: A number that the database can store.
RowNumber = Annotated[int, Path(ge=1, le=(1 << 62))]
ShortName = Annotated[
    str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
]
HostName = Annotated[str, Path(min_length=1, max_length=200)]
JobId = Annotated[str, Path(min_length=36, max_length=36, pattern=r"^[0-9a-f-]{36}$")]
Before = Annotated[
    int | None,
    Query(ge=1, le=(1 << 62), description="Only rows with a smaller number: the next page."),
]
Limit = Annotated[int, Query(ge=1, le=MAX_LISTED_ROWS)]
WaitSeconds = Annotated[
    float,
    Query(
        ge=0,
        le=MAX_WAIT,
        description="Seconds to wait for a response that If-None-Match does not name.",
    ),
]
FilterText = Annotated[str | None, Query(min_length=1, max_length=300)]
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem, "description": description}
    for status, description in (
        (400, "The request has not one Host header, is incomplete, or its body is not UTF-8."),
        (403, "A page of another origin could have sent the request."),
        (404, "The URL names something that does not exist."),
        (408, "The body did not arrive in time."),
        (409, "The present state does not allow the action."),
        (413, "The body is too large."),
        (421, "The Host header does not name this machine."),
        (422, "A parameter or the body is invalid."),
        (500, "An internal error of the dispatcher."),
        (502, "A host cannot be reached, or its response is invalid."),
        (503, "The database is locked or full, or too many logs are read."),
    )
}
CONDITIONAL_RESPONSES = {
    **PROBLEM_RESPONSES,
    304: {"description": "Nothing has changed within the time to wait."},
}


class Service(Protocol):
    """The dispatcher behind the API."""

    store: Store
    settings: Settings

    def poke(self, source: str) -> None:
        """Poll a source now."""


class Context:
    """The objects that all routes share."""

    def __init__(self, service: Service, logs: JobLogReader, secret: str) -> None:
        """``secret`` is the key with which hosts sign their notifications."""
        self.service = service
        self.store = service.store
        self.logs = logs
        self.secret = secret
        self.change_notifier = ChangeNotifier(service.store.changed)
        self.log_streams = LogStreams()
        self.started_at = time.time()


#: Maximum number of unknown parameters that an error names, and characters of each name.
_MAX_NAMED_PARAMETERS, _MAX_NAME_CHARS = 5, 60


def make_router() -> APIRouter:
    """Return a router for a part of the API, with what all of its routes have in common."""
    return APIRouter(
        prefix=ROOT,
        responses=PROBLEM_RESPONSES,
        dependencies=[Depends(_refuse_unknown_parameters)],
    )


async def _refuse_unknown_parameters(request: Request) -> None:
    """Raise UsageError if the URL has a parameter that the route does not have.

    A parameter that is misspelled would else be ignored, and a list not be filtered.
    """
    known = sorted(each.alias for each in request.scope["route"].dependant.query_params)
    unknown = sorted({name for name in request.query_params if name not in known})
    if not unknown:
        return
    names = [repr(name[:_MAX_NAME_CHARS]) for name in unknown]
    noun = "unknown query parameters" if len(names) > 1 else "unknown query parameter"
    listed = ", ".join(shorten_list(names, _MAX_NAMED_PARAMETERS))
    hint = format_suggestion(unknown[0], known) if known else "; this path has no parameters"
    raise UsageError(f"{noun} {listed}{hint}")


def context_of(request: Request) -> Context:
    """Return the context of the application that got a request."""
    context: Context = request.app.state.context
    return context
