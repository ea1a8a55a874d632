"""`moditalker weights convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import Assignments
from moditalker.cli.weights import weights


@weights.command()
def convert(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the weights.")],
    atom: Annotated[Path | None, typer.Option(help="AToM's checkpoint (.pt).")] = None,
    autoencoder: Annotated[Path | None, typer.Option(help="The autoencoder of RGB clips.")] = None,
    landmark_autoencoder: Annotated[
        Path | None, typer.Option(help="The autoencoder of landmark frames.")
    ] = None,
    diffusion: Annotated[
        Path | None, typer.Option(help="MToV's diffusion, which needs both autoencoders.")
    ] = None,
    speech: Annotated[
        Path | None, typer.Option(help="Folder of HuBERT large, which makes AToM's speech features.")
    ] = None,
    preset: Annotated[str, typer.Option(help="The code that the checkpoints are from.")] = "released",
    assignments: Assignments = None,
) -> None:
    """Convert checkpoints of the authors' code to a folder that `--model` takes. No code in them is run.

    Example: moditalker weights convert --atom atom.pt --speech hubert-large --out released
    """
    from moditalker import config as configuration
    from moditalker.talker.convert import Checkpoints, convert_checkpoints

    given = list(assignments or ())
    if speech is not None:
        given.append(f"speech.source={speech.absolute()}")
    files = Checkpoints(atom, autoencoder, landmark_autoencoder, diffusion)
    written = convert_checkpoints(files, out, configuration.load(preset, overrides=given))
    for name, dropped in written.items():
        unused = f"; {len(dropped)} parameters without use were left out" if dropped else ""
        print(f"{out / name}: converted{unused}")
    if atom is not None and "mtov.safetensors" not in written:
        print(f"{out}: makes motion; for videos the diffusion is missing (--diffusion)")
