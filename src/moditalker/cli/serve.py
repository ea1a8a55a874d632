"""`moditalker serve`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import MAKE, Device, On, app
from moditalker.errors import UserError


def state_folder() -> Path:
    """The default folder of jobs: below the user's folder for states of programs."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "moditalker"


@app.command(rich_help_panel=MAKE)
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; by default the first free one from 7860.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder of jobs and files; they outlive the server. Default: the user's own."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Weights: a name or a folder. May be repeated; jobs choose, by default the first."),
    ] = None,
    live_model: Annotated[str, typer.Option(help="Weights for live sessions.")] = "live",
    device: On = Device.cpu,
    workers: Annotated[int, typer.Option(min=1, help="Videos made at a time, by a process each.")] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Ray cluster that makes the videos: host:6379, or auto."),
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="File of tokens, one a line; whoever comes needs one of them.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Another site whose pages may use the service, such as https://talk.example.",
        ),
    ] = None,
    max_megabytes: Annotated[float, typer.Option(min=0.1, help="Largest file that may be sent.")] = 200,
    max_seconds: Annotated[float, typer.Option(min=1, help="Longest speech.")] = 60,
    max_waiting: Annotated[int, typer.Option(min=0, help="Jobs that may wait.")] = 8,
    max_rate: Annotated[
        float, typer.Option(min=1, help="Files and jobs that a visitor may send in a minute.")
    ] = 60,
    max_disk: Annotated[float, typer.Option(min=1, help="Megabytes of all files that are kept.")] = 10_000,
    max_live: Annotated[int, typer.Option(min=0, help="Live sessions at a time; 0: none.")] = 1,
    keep_minutes: Annotated[float, typer.Option(min=0.1, help="Files are deleted after so long.")] = 60,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
) -> None:
    """Serve videos by HTTP, and a page that makes them; by default for this machine alone.

    Nothing is fetched from the network or sent to it. Jobs and their results outlive the server, and are
    deleted after --keep-minutes.

    Example: moditalker serve --port 7860
    """
    try:
        from moditalker.serve.guard import own_address, stay_local
        from moditalker.serve.limits import Limits
        from moditalker.serve.server import run
        from moditalker.serve.service import Service
        from moditalker.serve.visitors import read_tokens
        from moditalker.weights.named import PORTRAIT, SENTENCE
    except ImportError as error:
        raise UserError(f"the service needs {error.name}: pip install 'moditalker[serve]'") from error

    known = read_tokens(tokens) if tokens else []
    address = own_address(host)
    if cluster is None:
        stay_local(address)
    if address == "0.0.0.0" and not known:
        print("note: whoever reaches this machine may make videos; --tokens asks who it is", file=sys.stderr)
    limits = Limits(
        megabytes=max_megabytes,
        seconds=max_seconds,
        waiting=max_waiting,
        rate=max_rate,
        disk=max_disk,
        live=max_live,
        keeping=60 * keep_minutes,
    )
    folder = (folder or state_folder()).absolute()
    service = Service(folder, model or ["tiny"], live_model, device.value, workers, limits, cluster)
    try:
        (parts := folder / "parts").mkdir(exist_ok=True)
        tempfile.tempdir = str(
            parts
        )  # for uploads that arrive; they have no names, so that a kill leaves none
        run(service, host, address, port, known, allow_origin or [], (PORTRAIT, SENTENCE), browser)
    finally:
        tempfile.tempdir = None
        service.close()
