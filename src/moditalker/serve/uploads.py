"""Forms with files, of bounded size: whoever sends more is told so while he sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message, Receive

from moditalker.errors import UserError
from moditalker.serve.limits import Limits

ROOM = 1 << 18  # bytes for all that is no file
FIELDS = 40  # that a form may have


class TooLarge(UserError):
    """More was sent than is taken."""


@asynccontextmanager
async def form_of(request: Request, limits: Limits, files: int) -> AsyncIterator[dict[str, Any]]:
    """The fields of a form: texts, and so many `UploadFile`s at most, which are closed in the end.

    Raises:
        TooLarge: more bytes than so many files may have. UserError: it is no form.
    """
    most = files * limits.bytes + ROOM
    message = f"more than {limits.megabytes:g} MB were sent; give a smaller file"
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > most:
        raise TooLarge(message)
    over = False

    def bounded(receive: Receive) -> Receive:
        taken = 0

        async def receiving() -> Message:
            nonlocal taken, over
            part = await receive()
            taken += len(part.get("body", b""))
            over = taken > most
            if over:
                raise MultiPartException(message)
            return part

        return receiving

    whole = Request(request.scope, bounded(request.receive))
    try:
        form = await whole.form(max_files=files, max_fields=FIELDS, max_part_size=ROOM)
    except HTTPException as error:
        fault = f"the form cannot be read: {error.detail}"
        raise (TooLarge(message) if over else UserError(fault)) from error
    try:
        yield dict(form.multi_items())
    finally:
        await form.close()
