"""Errors and their answers: a status and {"error": one sentence}."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from moditalker.errors import UserError
from moditalker.jobs.pool import Outcome

CRASHED = "the file made the program that reads it fail; it is damaged: export it again, or give another"
BUG = "something went wrong inside, which is not your fault; the server's log has more"
DISK_FULL = "there is no room for more files now; try again later"
RETRY = "30"  # s after which a visitor may try again


class Full(UserError):
    """There is no room now: in the queue, on the disk, or for a live session."""


class Absent(UserError):
    """There is no such file or job."""


class TooLarge(UserError):
    """The request has more bytes than are taken."""


class Unknown(UserError):
    """There is no such token."""


class TooOften(UserError):
    """A visitor asks faster than he may. seconds: after which he may again."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many files and jobs in a minute; try again in {seconds:.0f} s")
        self.seconds = seconds


def status_of(error: UserError) -> int:
    """The HTTP status of a mistake."""
    kinds = {Absent: 404, Full: 503, TooLarge: 413, Unknown: 401, TooOften: 429}
    return next((status for kind, status in kinds.items() if isinstance(error, kind)), 422)


def add_error_handlers(app: FastAPI) -> None:
    def told(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers)

    async def mistake(request: Request, error: Exception) -> Response:
        assert isinstance(error, UserError)
        status = status_of(error)
        wait = {429: str(round(getattr(error, "seconds", 1)) or 1), 503: RETRY}.get(status)
        headers = {"retry-after": wait} if wait else {}
        return told(status, str(error), headers | ({"www-authenticate": "Bearer"} if status == 401 else {}))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        fault = error.errors()[0]
        return told(422, f"{fault['loc'][-1]}: {fault['msg']}; GET /openapi.json lists what is expected")

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"{request.method} {request.url.path[:80]}: {str(error.detail).lower()}; see GET /openapi.json"
        return told(error.status_code, text, dict(error.headers or {}))

    async def gone(request: Request, error: Exception) -> Response:
        return told(400, "the connection ended before everything was sent")

    async def bug(request: Request, error: Exception) -> Response:
        return told(500, BUG)

    answers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        UserError: mistake,
        RequestValidationError: invalid,
        HTTPException: refused,
        ClientDisconnect: gone,
        Exception: bug,
    }
    for kind, answer in answers.items():
        app.add_exception_handler(kind, answer)


def sentence_of(outcome: Outcome[Any, Any]) -> str:
    """The sentence for a visitor whose job has failed."""
    if outcome.details:
        print(outcome.details, flush=True)
        return BUG
    return CRASHED if outcome.deaths else outcome.error
