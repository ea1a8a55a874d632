"""`moditalker web`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import MAKE, Device, Model, On, app
from moditalker.cli.generate import portrait
from moditalker.errors import UserError


@app.command(rich_help_panel=MAKE)
def web(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; by default the first free one from 7860.")
    ] = None,
    model: Model = "tiny",
    device: On = Device.cpu,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Largest file that may be given.")] = 200,
    max_seconds: Annotated[float, typer.Option(min=1, help="Longest speech.")] = 60,
    keep_minutes: Annotated[
        float, typer.Option(min=1, help="Files of a page that stays open are deleted after so long.")
    ] = 60,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
) -> None:
    """Open a web page that makes videos, on this machine alone unless told otherwise.

    Nothing is fetched from the network or sent to it. Visitors' files are deleted when they close the page.

    Example: moditalker web --port 7860
    """
    from moditalker.serve.guard import own_address, stay_local
    from moditalker.serve.studio import Limits, Studio
    from moditalker.weights.named import ASSETS

    stay_local(address := own_address(host))
    limits = Limits(megabytes=max_megabytes, seconds=max_seconds, keeping=60 * keep_minutes)
    done = threading.Event()
    studio = Studio(model, device.value, limits)  # its processes load networks while the page is imported
    try:
        try:
            from moditalker.serve.page import launch
        except ImportError as error:
            raise UserError("the web page needs Gradio: pip install 'moditalker[web]'") from error
        samples = _samples(ASSETS / "demo_speech.flac")
        blocks, url = launch(studio, host, address, port, samples, browser)
        studio.ready()
        for number in (signal.SIGINT, signal.SIGTERM):  # until here they interrupt
            signal.signal(number, lambda *_: done.set())
        print(f"MoDiTalker is at {url} (Ctrl+C ends it)", flush=True)
        done.wait()
        blocks.close(verbose=False)
    finally:
        studio.close()


def _samples(speech: Path) -> tuple[Path, Path] | None:
    """The example's portrait and recording, where the portrait is installed."""
    try:
        return portrait(), speech
    except UserError:
        return None
