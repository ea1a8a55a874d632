"""Nothing leaves: neither this process nor the visitor's browser speaks to another machine. Nor do other
sites speak to the page, through a visitor's browser.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from moditalker.errors import UserError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

HEADERS = {
    # All that the page loads comes from here; recordings and pictures of its own it holds as blobs.
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
FOREIGN = b'{"error": "another site asked; only its own page, and programs, may use this service"}'
OWN = ("/jobs/", "/faces/")  # paths of visitors' files and results


def own_address(host: str) -> str:
    """The address of this machine that a name or an address stands for.

    Raises:
        UserError: it is none of this machine's.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)
        family, kind, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except (OSError, UnicodeError):
        raise UserError(
            f"--host {host}: is no address of this machine; give 127.0.0.1, 0.0.0.0 or one of its own"
        ) from None
    return str(address[0])


def stay_local(own: str = "") -> None:
    """From now on this process connects to this machine only, and asks no name server.

    This is one lock before all doors, whatever a library would fetch. It cannot be undone. own: an address
    of this machine.
    """
    sys.addaudithook(partial(_refuse, own))


def _refuse(own: str, event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # others are files of this machine
    else:
        return
    if not _local(host) and host != own:
        raise PermissionError(f"no connection to {host!r}: nothing is fetched from the network")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _local(host: object) -> bool:
    name = host.decode(errors="replace") if isinstance(host, bytes) else host
    if name is None or name in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(str(name).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


class Doorkeeper:
    """ASGI middleware: HEADERS with each answer, and a refusal of requests from other sites.

    Caches do not keep visitors' files and results.

    Args:
        name: of this machine, where it alone may ask: a request for any other host comes from a page whose
            name was made to lead here. None: whoever asks.
        origins: of other sites whose pages may ask.
    """

    def __init__(self, app: App, name: str | None = None, origins: Collection[str] = ()) -> None:
        self.app, self.name, self.origins = app, name, frozenset(origins)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = dict(HEADERS)
                if scope["path"].startswith(OWN):
                    extra["cache-control"] = "private, no-store"
                    extra["content-security-policy"] = "sandbox; default-src 'none'; media-src 'self'"
                names = {name.encode() for name in extra}
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in names]
                message["headers"] = kept + [(n.encode(), v.encode()) for n, v in extra.items()]
            await send(message)

        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif not self._foreign(scope):
            await self.app(scope, receive, sending)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            content = [(b"content-type", b"application/json")]
            await sending({"type": "http.response.start", "status": 403, "headers": content})
            await sending({"type": "http.response.body", "body": FOREIGN})

    def _foreign(self, scope: Message) -> bool:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = _host_of("//" + headers.get(b"host", "")), headers.get(b"origin")
        if self.name is not None and not _local(host) and host != self.name.lower():
            return True
        if origin is None or origin in self.origins or scope.get("method") in ("GET", "HEAD"):
            return False
        return _host_of(origin) != host


def _host_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return address
