"""`moditalker config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import KEEP, Assignments, app


@app.command(rich_help_panel=KEEP)
def config(
    preset: Annotated[str | None, typer.Option(help="Configuration: tiny, live, paper or released.")] = None,
    file: Annotated[Path | None, typer.Option(help="YAML with what differs.")] = None,
    assignments: Assignments = None,
) -> None:
    """Print the resolved configuration: defaults, then preset (tiny), file and --set.

    Example: moditalker config --preset tiny --set atom.layers=6
    """
    from moditalker import config as configuration

    preset = preset or (None if file else "tiny")
    print(configuration.dump(configuration.load(preset, file, assignments or ())), end="")
