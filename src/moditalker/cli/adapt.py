"""`moditalker adapt`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import TRAIN, Choose, Model, app, check_output, parse_choice
from moditalker.errors import UserError


@app.command(rich_help_panel=TRAIN)
def adapt(
    face: Annotated[list[Path], typer.Option(help="A video of the person. May be repeated.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The weights to write (.safetensors).")],
    minutes: Annotated[
        float, typer.Option(min=0.1, max=600, help="Minutes that the whole command may take.")
    ] = 10.0,
    model: Model = "tiny",
    choose: Choose = "largest",
) -> None:
    """Fine-tune MToV to one person, for `generate --weights`.

    Example: moditalker adapt --face person.mp4 --out person.safetensors --minutes 10

    The default model takes lips and teeth from the person's own frames, and needs this only for mouths
    that the face video never opens. Ten seconds of a speaking face are enough, a minute is better. The
    last sixth is kept for validation: if training did not improve it, the weights are written unchanged.
    """
    import time

    from moditalker import config as configuration
    from moditalker.features.face.identity import Follower
    from moditalker.features.face.tracker import FaceTracker
    from moditalker.media import open_source
    from moditalker.training.tasks.adaptation import adapt as fine_tune
    from moditalker.training.tasks.adaptation import person_clips
    from moditalker.weights.files import check_writable, halved, load_weights, save_weights
    from moditalker.weights.named import model_folder

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: weights are written as .safetensors; choose a name with this ending")
    check_writable(out)
    check_output("--out", out, (*face, *model_folder(model).glob("*.safetensors")))
    state, description = load_weights(model_folder(model) / "mtov.safetensors")
    config = configuration.from_dict(description["config"])
    tracker, clips, begun = FaceTracker(), [], time.monotonic()
    print(f"adapt: reading the face in {len(face)} videos; {minutes:g} minutes for everything", flush=True)
    for path in face:
        source = open_source(path)
        follower = Follower(tracker, config.crop, source, parse_choice(choose))
        clips += person_clips(follower.follow(source), config.crop.size)
        print(f"{path}: {sum(len(clip.crops) for clip in clips)} frames with a face so far", flush=True)
    with tempfile.TemporaryDirectory(prefix="moditalker-") as run:
        adapted = fine_tune(
            config, state, clips, Path(run), minutes, lambda line: print(line, flush=True), begun
        )
    figures = {"before": adapted.before, "after": adapted.after, "steps": adapted.steps}
    save_weights(out, halved(adapted.state), configuration.to_dict(adapted.config), {"figures": figures})
    print(
        f"{out}: {adapted.before:.2f} dB before, {adapted.after:.2f} dB after, on the seconds kept aside; "
        f"use it by --weights {out}"
    )
