"""No way out of the machine, and no way in for other sites."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from moditalker.errors import UserError
from moditalker.serve.guard import Doorkeeper, own_address


def test_no_way_out_of_the_machine():
    code = """
import socket, threading
from moditalker.serve.guard import stay_local
stay_local()
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
socket.create_connection(("localhost", server.getsockname()[1])).close()
for act in (
    lambda: socket.create_connection(("192.0.2.1", 80), 1),
    lambda: socket.getaddrinfo("example.com", 80),
    lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
    lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
):
    try:
        act()
    except PermissionError as error:
        assert "nothing is fetched" in str(error)
    else:
        raise SystemExit("there is a way out")
print("none")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "none\n", done.stderr


def test_only_addresses_of_this_machine_are_listened_on():
    assert own_address("127.0.0.1") == own_address("localhost") == "127.0.0.1"
    assert own_address("0.0.0.0") == "0.0.0.0"
    for host in ("", "no-such-host.invalid", "198.51.100.7", "x" * 70 + ".a"):
        with pytest.raises(UserError, match=f"--host {host}: is no address of this machine"):
            own_address(host)


def test_an_own_address_may_be_spoken_to():
    code = """
import socket
from moditalker.serve.guard import stay_local
stay_local("198.51.100.7")
sender = socket.socket(type=socket.SOCK_DGRAM)
for address in ("198.51.100.7", "198.51.100.8"):
    try:
        sender.sendto(b"", (address, 9))
    except PermissionError as error:
        assert "nothing is fetched" in str(error)
        print(address)
    except OSError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "198.51.100.8\n", done.stderr


@pytest.mark.parametrize(
    ("name", "method", "host", "origin", "status"),
    [
        ("127.0.0.1", "GET", "127.0.0.1:7860", None, 200),
        ("127.0.0.1", "GET", "localhost:7860", None, 200),
        ("127.0.0.1", "GET", "[::1]:7860", None, 200),
        ("box", "GET", "Box:7860", None, 200),
        ("talk.example", "POST", "talk.example", "https://talk.example", 200),
        ("127.0.0.1", "GET", "evil.example:7860", None, 403),
        ("127.0.0.1", "GET", "127.0.0.1.evil.example", None, 403),
        ("127.0.0.1", "GET", "[::1", None, 403),
        ("127.0.0.1", "POST", "127.0.0.1:7860", None, 200),
        ("127.0.0.1", "POST", "127.0.0.1:7860", "http://127.0.0.1:7860", 200),
        ("127.0.0.1", "POST", "127.0.0.1:7860", "https://evil.example", 403),
        ("127.0.0.1", "POST", "127.0.0.1:7860", "null", 403),
        (None, "GET", "talk.example", "https://evil.example", 200),
        (None, "POST", "talk.example", "https://talk.example", 200),
        (None, "POST", "talk.example", None, 200),
        (None, "POST", "talk.example", "https://evil.example", 403),
    ],
)
def test_other_sites_are_refused(name, method, host, origin, status):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        told.append(message)

    told = []
    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin else [])]
    scope = {"type": "http", "method": method, "path": "/upload", "headers": headers}
    asyncio.run(Doorkeeper(app, name)(scope, None, send))
    assert told[0]["status"] == status
    assert dict(told[0]["headers"])[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    ("origin", "origins", "refused"),
    [
        (None, (), False),
        ("http://127.0.0.1:7860", (), False),
        ("https://evil.example", (), True),
        ("https://talk.example", ("https://talk.example",), False),
        ("https://evil.example", ("https://talk.example",), True),
    ],
)
def test_live_sessions_of_other_sites_are_refused(origin, origins, refused):
    async def app(scope, receive, send):
        told.append("welcome")

    async def send(message):
        told.append(message["type"])

    async def receive():
        return {"type": "websocket.connect"}

    told = []
    headers = [(b"host", b"127.0.0.1:7860"), *([(b"origin", origin.encode())] if origin else [])]
    scope = {"type": "websocket", "path": "/live", "headers": headers}
    asyncio.run(Doorkeeper(app, "127.0.0.1", origins)(scope, receive, send))
    assert told == (["websocket.close"] if refused else ["welcome"])
