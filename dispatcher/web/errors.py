"""Conversion of every error to a problem (RFC 9457) whose detail is for people."""

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
from ..hosts.job_logs import LogUnavailable
from ..reconciler import user_actions
from ..store import StoreError
from .log_streams import TooManyReaders
from .request_guard import PROBLEM_MEDIA_TYPE, problem


class NotFound(NosejobsError):
    """The URL names something that does not exist."""


def add_errors(app: FastAPI) -> None:
    """Register a handler for every kind of error."""
    statuses: list[tuple[type[Exception], int]] = [
        (NotFound, 404), (LogUnavailable, 404), (user_actions.UnknownName, 404),
        (user_actions.ActionRefused, 409), (model.InvalidTransition, 409), (JobRefused, 409),
        (UsageError, 422), (HostError, 502), (TooManyReaders, 503), (StoreError, 503),
    ]  # fmt: skip
    for kind, status in statuses:
        app.add_exception_handler(kind, _handler(status))
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(RequestValidationError, _handle_invalid_request)
    app.add_exception_handler(Exception, _handle_internal_error)


def _problem_response(status: int, detail: str) -> Response:
    return JSONResponse(problem(status, detail), status, media_type=PROBLEM_MEDIA_TYPE)


def _handler(status: int) -> Callable[[Request, Exception], Response]:
    return lambda request, error: _problem_response(status, str(error))


def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404:
        detail = f"unknown path {to_single_line(request.url.path, 200)}\n  see: /openapi.json"
    elif error.status_code == 405:
        detail = f"{request.method} is not allowed for {to_single_line(request.url.path, 200)}"
    response = _problem_response(error.status_code, detail)
    response.headers.update(error.headers or {})
    return response


def _handle_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _problem_response(
        422, "; ".join(_describe_validation_error(each) for each in error.errors()[:5])
    )


def _describe_validation_error(error: Any) -> str:
    """Return which parameter is invalid and why.

    The value, which may be of any size, is cut, and shown only if it is not one of a few names.
    """
    location = ".".join(str(part) for part in error["loc"][1:]) or str(error["loc"][0])
    if error["type"] == "enum":
        names = ", ".join(re.findall(r"'([^']*)'", error["ctx"]["expected"]))
        given = to_single_line(repr(error["input"]), 60)
        return f"{to_single_line(location, 100)} must be one of {names}, not {given}"
    detail = re.sub(r"^Value error, ", "", error["msg"])
    return f"{to_single_line(location, 100)}: {to_single_line(detail, 300)}"


def _handle_internal_error(request: Request, error: Exception) -> Response:
    return _problem_response(500, "internal error of the dispatcher; see its log")
