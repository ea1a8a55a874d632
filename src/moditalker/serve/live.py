"""Live by WebSocket: sound comes in as it is spoken, frames go out.

    /live?face=ID&rate=16000&deadline=1.0 and fields of `VideoOptions`

In: binary messages of 16-bit little-endian mono samples, no sooner than they are spoken; {"type": "end"} ends
the speech. Out: {"type": "ready", width, height, fps, ahead}, from when on sound is heard; binary messages of
8 bytes (little-endian double: the second of sound that the frame belongs to) and a JPEG; {"type": "end",
frames, dropped}. An error is {"type": "error", "error": one sentence}.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from pydantic import Field
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from moditalker.errors import UserError
from moditalker.serve.errors import BUG
from moditalker.serve.forms import ID, VideoOptions, validated
from moditalker.serve.orders import FRAME
from moditalker.serve.service import Service
from moditalker.serve.sessions import Session
from moditalker.serve.visitors import Visitors

MOST = 1 << 18  # bytes of one message
CHUNK = 1 << 14  # bytes of sound that are handed on at once: a pipe takes them without waiting
GRACE = 5.0  # s that a worker has to end a session after its visitor has left


class Speech(VideoOptions):
    """The query of a live session."""

    face: str = Field(pattern=ID, description="Id of a face that was sent before.")
    rate: int = Field(default=16_000, ge=8_000, le=48_000, description="Samples of sound in a second.")
    deadline: float = Field(
        default=1.0, ge=0.5, le=10, description="Seconds after its sound by which a frame is there."
    )


async def speak(socket: WebSocket, service: Service, visitors: Visitors) -> None:
    """A session, from its beginning to its end."""
    await socket.accept()
    try:
        asked = validated(Speech, dict(socket.query_params))
        face = service.file(visitors.owner(socket), "face", asked.face)
        session = service.sessions.begin(face, asked.rate, asked.deadline, asked.options())
    except UserError as error:
        await _close(socket, str(error))
        return
    threads = ThreadPoolExecutor(2, "live")  # one waits for frames, one for room for sound
    hearing = asyncio.create_task(_hear(socket, session, threads, service.limits.live_seconds))
    try:
        fault = await _show(socket, session, threads)
    except (WebSocketDisconnect, RuntimeError):  # the visitor has left
        fault = ""
    finally:
        hearing.cancel()
        session.cut()
        await asyncio.gather(hearing, return_exceptions=True)
        await _end(session)
        threads.shutdown(wait=False)
    await _close(socket, fault)


async def _show(socket: WebSocket, session: Session, threads: ThreadPoolExecutor) -> str:
    """Send the worker's messages to the visitor; returns the sentence of an error, or ""."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            message = await loop.run_in_executor(threads, session.line.recv_bytes)
        except (EOFError, OSError):
            return await asyncio.wrap_future(session.ended)
        session.theirs.close()
        if message.startswith(FRAME):
            await socket.send_bytes(message[1:])
            continue
        told = json.loads(message[1:])
        if told["type"] == "error":
            return str(told["error"])
        await socket.send_json(told)
        if told["type"] == "end":
            return ""


async def _hear(socket: WebSocket, session: Session, threads: ThreadPoolExecutor, seconds: float) -> None:
    """Pass the sound to the worker until it ends, the time is over, or the visitor leaves."""
    loop = asyncio.get_running_loop()

    async def give(sound: bytes) -> None:
        await loop.run_in_executor(threads, session.line.send_bytes, sound)

    async def pass_on() -> None:
        while True:
            message: Any = await socket.receive()
            if message["type"] != "websocket.receive" or message.get("text"):
                return
            sound = message.get("bytes") or b""
            for start in range(0, len(sound) - 1, CHUNK):
                await give(sound[start : min(start + CHUNK, len(sound) // 2 * 2)])

    with suppress(OSError, asyncio.TimeoutError):
        await asyncio.wait_for(pass_on(), seconds)
    with suppress(OSError):
        await give(b"")


async def _end(session: Session) -> None:
    """Wait until the worker has noticed the end of the line, and stop it if it does not."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(session.ended)), GRACE)
    session.stop()
    session.line.close()


async def _close(socket: WebSocket, fault: str) -> None:
    with suppress(RuntimeError, WebSocketDisconnect):
        if fault and socket.application_state == WebSocketState.CONNECTED:
            await socket.send_json({"type": "error", "error": fault})
        await socket.close(1011 if fault == BUG else 1008 if fault else 1000)
