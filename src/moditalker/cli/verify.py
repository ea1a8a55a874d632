"""`moditalker verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import KEEP, app, parse_choice
from moditalker.errors import UserError


@app.command(rich_help_panel=KEEP)
def verify(
    file: Annotated[Path, typer.Argument(help="The video to check.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that was found as JSON.")] = False,
    choose: Annotated[
        str, typer.Option(help="Among several faces: largest, a number from the left (0, 1, ...), or x,y.")
    ] = "largest",
) -> None:
    """Tell whether a video says that it is synthetic: its C2PA manifest, and MoDiTalker's invisible mark.

    Exit code 0 if a valid manifest or the mark says so, 1 if neither does, 2 if the file cannot be read.
    Exit code 1 does not mean that the video is genuine.

    Example: moditalker verify talking.mp4
    """
    from moditalker.provenance import verify as verification

    if choose == "speaker":
        raise UserError(
            "--choose speaker: who spoke before the sound was replaced is not known; give each face's number"
        )
    found = verification.verify(file, parse_choice(choose))
    print(json.dumps(found.to_dict(), indent=2) if as_json else found)
    if not found.synthetic:
        raise typer.Exit(1)
