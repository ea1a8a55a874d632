"""Nothing leaves: neither this process nor the visitor's browser speaks to another machine."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

HEADERS = {
    # Scripts and styles of the page are inline, and it evaluates handlers; but nothing comes from elsewhere.
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "object-src 'none'; form-action 'self'; frame-ancestors 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def stay_local() -> None:
    """From now on this process connects to this machine only, and asks no name server.

    The page's framework fetches what a visitor names by an address, and asks for its newest version: this is
    one lock before all such doors. It cannot be undone.
    """
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # others are files of this machine
    else:
        return
    if not _local(host):
        raise PermissionError(f"no connection to {host!r}: nothing is fetched from the network")


def _local(host: object) -> bool:
    name = host.decode(errors="replace") if isinstance(host, bytes) else host
    if name is None or name in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(str(name).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


class Headers:
    """ASGI middleware: HEADERS with each answer. What visitors give or get is not kept by caches between."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = dict(HEADERS)
                if "/file=" in scope["path"]:
                    extra["cache-control"] = "private, no-store"
                    extra["content-security-policy"] = "sandbox; default-src 'none'; media-src 'self'"
                names = {name.encode() for name in extra}
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in names]
                message["headers"] = kept + [(n.encode(), v.encode()) for n, v in extra.items()]
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)
