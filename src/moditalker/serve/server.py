"""The application on a port: `moditalker serve`."""

from __future__ import annotations

import signal
import socket
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from moditalker.errors import UserError
from moditalker.serve.api import application
from moditalker.serve.guard import is_loopback
from moditalker.serve.live import MOST
from moditalker.serve.service import Service

FIRST, LAST = 7860, 7960  # ports to try if none is given
FAREWELL = 3  # s that open connections have when the server ends


def listening(address: str, port: int | None) -> socket.socket:
    """A socket that listens on a port; None: on the first free one from FIRST. Raises UserError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    fault: OSError | None = None
    for number in range(FIRST, LAST) if port is None else [port]:
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((address, number))
            opened.listen(256)
            return opened
        except OSError as error:
            fault = error
            opened.close()
    what = f"no port from {FIRST} on is free" if port is None else f"port {port} is taken, or not allowed"
    raise UserError(f"{address}: {what}; choose another --port") from fault


class _Server(uvicorn.Server):
    """Ends in good order with SIGINT and SIGTERM, and does not send them to itself again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield


def run(
    service: Service,
    host: str,
    address: str,
    port: int | None = None,
    tokens: Sequence[str] = (),
    origins: Sequence[str] = (),
    samples: tuple[Path, Path] | None = None,
    browser: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM; the networks are loaded meanwhile.

    Args:
        host: the name that visitors use. address: the address of that name (`own_address`).
        tokens, origins, samples: as for `application`.
        browser: open the page in one.

    Raises:
        UserError: the port cannot be listened on; the networks cannot be loaded.
    """
    with listening(address, port) as opened:
        name = host if is_loopback(address) else None
        app = application(service, name, tokens, origins, samples)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws_max_size=MOST,
            timeout_graceful_shutdown=FAREWELL,
            timeout_keep_alive=30,
        )
        service.ready()
        shown = f"[{address}]" if ":" in address else address
        url = f"http://{shown}:{opened.getsockname()[1]}/"
        print(f"MoDiTalker is at {url} (Ctrl+C ends it)", flush=True)
        if browser:
            webbrowser.open(url)
        _Server(config).run(sockets=[opened])
