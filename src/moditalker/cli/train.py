"""`moditalker train`."""

from __future__ import annotations

import math
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, Annotated

import typer

from moditalker.cli.common import TRAIN, Assignments, app
from moditalker.errors import UserError

if TYPE_CHECKING:
    from moditalker.config import Config


class TaskName(StrEnum):
    """The parts of a preset; video: all of the video stage, one after the other."""

    video = "video"
    autoencoder = "autoencoder"
    landmark_autoencoder = "landmark-autoencoder"
    mtov = "mtov"
    distillation = "distillation"
    atom = "atom"
    sync_expert = "sync-expert"


# The parts of the video stage in their order, and the minutes of each in 10 of --minutes.
VIDEO = {TaskName.autoencoder: 3, TaskName.landmark_autoencoder: 1, TaskName.mtov: 6}


class Precision(StrEnum):
    """Precision of the forward passes."""

    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


@app.command(rich_help_panel=TRAIN)
def train(
    task: Annotated[TaskName, typer.Argument(help="The part to train.")],
    data: Annotated[Path, typer.Option(help="Dataset: the folder that `moditalker prepare` made.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder: checkpoints, curves, weights.")],
    split: Annotated[
        Path | None,
        typer.Option(
            help='JSON with "train" and "val"; by default the split that the dataset was prepared with.'
        ),
    ] = None,
    held_out: Annotated[str, typer.Option(help="Speakers kept for validation, comma-separated.")] = "",
    preset: Annotated[str, typer.Option(help="Configuration: tiny, live, paper or released.")] = "tiny",
    assignments: Assignments = None,
    autoencoder: Annotated[Path | None, typer.Option(help="Run of the autoencoder, for mtov.")] = None,
    landmark_autoencoder: Annotated[
        Path | None, typer.Option(help="Run of the landmark autoencoder, from which mtov's E_L starts.")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Weights (.safetensors) of the same part to start with.")
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Precision of the forward passes; bf16 and fp16 need Accelerate.")
    ] = Precision.no,
    accelerate: Annotated[
        bool,
        typer.Option(
            "--accelerate", help="Use the devices and processes that `accelerate launch` or torchrun gives."
        ),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Of training at most; the learning rate's schedule ends with them."),
    ] = None,
) -> None:
    """Train one part of a preset, or the whole video stage.

    Example: moditalker train atom --data dataset --out runs/atom

    "video" trains the autoencoder, the landmark autoencoder and mtov, each in a folder of its own in --out.
    Alone, train the autoencoder before mtov, which takes its run by --autoencoder. Distillation lets a
    trained mtov use fewer sampling steps. `moditalker generate --model FOLDER` takes a folder with the
    weights of atom and mtov.
    """
    from moditalker import config as configuration
    from moditalker.data.parts import find_data, parse_speakers
    from moditalker.jobs.files import claimed
    from moditalker.training.build import build
    from moditalker.training.loop import fit
    from moditalker.training.processes import Accelerated, Processes
    from moditalker.training.run import CHECKPOINT, check_folder, record
    from moditalker.weights.files import halved, save_weights

    whole = task == TaskName.video
    if whole and (autoencoder or landmark_autoencoder or start_from):
        raise UserError("video trains all its parts anew: leave out --autoencoder and --start-from")
    settings = configuration.load(preset, overrides=assignments or ())
    parts = video_parts(settings) if whole else {task: 1}
    runs = {part: out / part.value if whole else out for part in parts}
    begun = {part: resume and (not whole or (run / CHECKPOINT).exists()) for part, run in runs.items()}
    for part, run in runs.items():
        check_folder(run, begun[part])
    processes = Accelerated(precision.value) if accelerate or precision != Precision.no else Processes()
    if minutes is not None and processes.count > 1:
        raise UserError("--minutes: counts in one process only; give steps with --set instead")
    clips = find_data(data, split, parse_speakers(held_out))

    def log(line: str) -> None:
        if processes.main:
            print(line, flush=True)

    if clips.unmatched:
        log(f"{split}: {len(clips.unmatched)} of its entries name no video: {short(clips.unmatched)}")
    given = {"autoencoder": autoencoder, "landmark_autoencoder": landmark_autoencoder}
    for part, share in parts.items():
        run, limit = runs[part], (minutes or math.inf) * share / sum(parts.values())
        with claimed(run) if processes.main else nullcontext():
            if processes.main:
                record(run, part.value, settings, clips)
            work, training = build(
                part.value, settings, clips, run, **given, start_from=start_from, log=log, processes=processes
            )
            figures = fit(work, training, run, log, processes, 60 * limit)
            if processes.main:
                weights = run / f"{'mtov' if part == TaskName.distillation else part.value}.safetensors"
                state, told = work.model.state_dict(), {"figures": figures or {}}
                save_weights(weights, halved(state), configuration.to_dict(work.config), told)
                log(f"{weights}: the averaged weights, half precision")
        if figures is None:
            log(f"{out}: --resume resumes the run")
            break
        if whole:
            given[part.name] = run


def video_parts(settings: Config) -> dict[TaskName, int]:
    """The parts of the video stage and the share of the minutes that each has."""
    layers = settings.autoencoder.encoder_layers
    alike = (settings.mtov.condition_layers or layers) == layers  # else E_L cannot start from such a run
    return {part: share for part, share in VIDEO.items() if alike or part != TaskName.landmark_autoencoder}
