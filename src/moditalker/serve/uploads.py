"""Forms with files, of bounded size: a larger request is refused while it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moditalker.errors import UserError
from moditalker.serve.errors import TooLarge
from moditalker.serve.service import Service

ROOM = 1 << 18  # bytes for all that is no file
FIELDS = 40  # that a form may have
SPARE, PATIENCE = 1 << 24, 5.0  # bytes and seconds that are read of a request that is refused


@asynccontextmanager
async def form_of(request: Request, service: Service, files: int) -> AsyncIterator[dict[str, Any]]:
    """The fields of a form: texts, and `files` `UploadFile`s at most, which are closed in the end.

    Raises:
        TooLarge: more bytes than so many files may have. Full: all forms that arrive now would fill the disk.
        UserError: it is no form.
    """
    limits = service.limits
    most = files * limits.bytes + ROOM
    message = f"more than {limits.megabytes:g} MB were sent; give a smaller file"
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > most:
        raise TooLarge(message)
    fault: UserError | None = None
    taken = 0

    async def bounded() -> Message:
        nonlocal taken, fault
        part = await request.receive()
        size = len(part.get("body", b""))
        taken, service.arriving = taken + size, service.arriving + size
        try:
            service.check_disk(service.arriving)
            if taken > most:
                raise TooLarge(message)
        except UserError as error:
            fault = error
            raise MultiPartException(str(error)) from error  # which closes the files
        return part

    whole = Request(request.scope, bounded)
    try:
        form = await whole.form(max_files=files, max_fields=FIELDS, max_part_size=ROOM)
        try:
            yield dict(form.multi_items())
        finally:
            await form.close()
    except MultiPartException as error:
        raise fault or UserError(f"the form cannot be read: {error}") from error
    except HTTPException as error:
        raise fault or UserError(f"the form cannot be read: {error.detail}") from error
    finally:
        service.arriving -= taken


class Patient:
    """ASGI middleware: what a refused request still sends is read, up to SPARE bytes, before it is answered.

    Else the connection is closed while the client sends, and it sees no answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        ended = False

        async def counted() -> Message:
            nonlocal ended
            part = await receive()
            ended = part["type"] != "http.request" or not part.get("more_body", False)
            return part

        async def rest() -> None:
            left = SPARE
            while not ended and left > 0:
                left -= len((await counted()).get("body", b""))

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(rest(), PATIENCE)
            await send(message)

        await self.app(scope, counted, told)
