"""`moditalker config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import KEEP, Assignments, app
from moditalker.errors import UserError


@app.command(rich_help_panel=KEEP)
def config(
    model: Annotated[
        str | None, typer.Option(help="Show what these weights run with: a model's name, or a folder.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Show a configuration for training: tiny, live, paper or released.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="YAML with what differs from the preset.")] = None,
    assignments: Assignments = None,
) -> None:
    """Print all settings of a model, by default of tiny, or of a preset, with a file and --set on top.

    Example: moditalker config --preset paper --set atom.layers=6
    """
    from moditalker import config as configuration

    if preset or file:
        if model is not None:
            raise UserError("--model shows what weights carry, --preset and --file what to train: give one")
        shown = configuration.load(preset, file, assignments or ())
    else:
        from moditalker.talker.settings import model_settings

        shown = configuration.override(model_settings(model or "tiny"), assignments or ())
    print(configuration.dump(shown), end="")
