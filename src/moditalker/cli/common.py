"""What the commands share: the application, options that many have, and the progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from moditalker import __version__

app = typer.Typer(
    help="Speech and a face in, a lip-synced talking video out: offline, on weights in the package.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Device(str, Enum):
    """Where the networks run."""

    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Extend(str, Enum):
    """What follows the end of a face video that is shorter than the audio."""

    pingpong = "pingpong"
    loop = "loop"
    hold = "hold"
    none = "none"


Out = Annotated[Path, typer.Option("--out", "-o", help="The video to write; the container follows the name.")]
Preset = Annotated[str, typer.Option(help="Weights: the name of shipped ones, or a folder.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same frames.")]
Steps = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Sampling steps of both diffusion models; more is slower.")
]
Lossless = Annotated[
    bool, typer.Option("--lossless", help="Lossless pictures: outside the mouth region equal to the source.")
]
Report = Annotated[
    Path | None,
    typer.Option(help="Write what was done as JSON: frames, times, memory, faceless frames."),
]
On = Annotated[Device, typer.Option(help="Where the networks run.")]


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error; calling what this yields moves it: stage, frames done, frames in all."""
    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} frames"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("loading", total=1)

        def show(stage: str, done: int, total: int) -> None:
            progress.update(task, description=stage, completed=done, total=max(total, done, 1))

        yield show


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"moditalker {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
