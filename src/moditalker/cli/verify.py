"""`moditalker verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import Choose, app, parse_choice


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The video to look into.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all that was found as JSON.")] = False,
    choose: Choose = "largest",
) -> None:
    """Tell whether a video says that it is synthetic: its C2PA manifest, and MoDiTalker's invisible mark.

    Exit code 0 where something that can be relied on says so, 1 where nothing does, 2 where the file cannot
    be read. That nothing says so does not mean that the video is genuine.

    Example: moditalker verify talking.mp4
    """
    from moditalker import verify as verification

    found = verification.verify(file, parse_choice(choose))
    print(json.dumps(found.to_dict(), indent=2) if as_json else found)
    if not found.synthetic:
        raise typer.Exit(1)
