"""Answer every error as a problem (RFC 9457) whose detail is for people."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from shell_runner.errors import HostError, JobRefused, NosejobsError, UsageError
from shell_runner.text import to_single_line

from .. import model
from ..hosts.job_logs import NoLog
from ..reconciler import actions
from ..store import StoreError
from .log_streams import TooMany
from .request_guard import PROBLEM, problem


class NotFound(NosejobsError):
    """The URL names something that does not exist."""


def add_errors(app: FastAPI) -> None:
    """Register a handler for every kind of error."""
    statuses: list[tuple[type[Exception], int]] = [
        (NotFound, 404), (NoLog, 404), (actions.Unknown, 404), (actions.Refused, 409),
        (model.BadChange, 409), (UsageError, 422), (JobRefused, 409), (HostError, 502),
        (TooMany, 503), (StoreError, 503),
    ]  # fmt: skip
    for kind, status in statuses:
        app.add_exception_handler(kind, _handler(status))
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)


def _problem(status: int, words: str) -> Response:
    return JSONResponse(problem(status, words), status, media_type=PROBLEM)


def _handler(status: int) -> Callable[[Request, Exception], Response]:
    return lambda request, error: _problem(status, str(error))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = str(error.detail)
    if error.status_code == 404:
        words = f"there is no {to_single_line(request.url.path, 200)} here\n  see: /openapi.json"
    elif error.status_code == 405:
        words = f"{request.method} is not for {to_single_line(request.url.path, 200)}"
    found = _problem(error.status_code, words)
    found.headers.update(error.headers or {})
    return found


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _problem(422, "; ".join(_describe(each) for each in error.errors()[:5]))


def _describe(error: Any) -> str:
    """Return which parameter is invalid and why, without its value, which may be of any size."""
    where = ".".join(str(part) for part in error["loc"][1:]) or str(error["loc"][0])
    words = re.sub(r"^Value error, ", "", error["msg"])
    return f"{to_single_line(where, 100)}: {to_single_line(words, 300)}"


def _broken(request: Request, error: Exception) -> Response:
    return _problem(500, "the dispatcher has made a mistake; its own output says which")
