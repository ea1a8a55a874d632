"""`moditalker train`."""

from __future__ import annotations

import math
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from reprlib import repr as short
from typing import Annotated

import typer

from moditalker.cli.common import TRAIN, Assignments, app
from moditalker.errors import UserError


class TaskName(str, Enum):
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


class Precision(str, Enum):
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
    processes = Accelerated(precision.value) if accelerate or precision != Precision.no else Processes()
    if minutes is not None and processes.count > 1:
        raise UserError("--minutes: counts in one process only; give steps with --set instead")
    settings = configuration.load(preset, overrides=assignments or ())
    clips = find_data(data, split, parse_speakers(held_out))

    def log(line: str) -> None:
        if processes.main:
            print(line, flush=True)

    def trained(task: TaskName, out: Path, resume: bool, minutes: float, **runs: Path | None) -> bool:
        """Train one part; whether it came to its end. runs: and weights that it starts from."""
        check_folder(out, resume)
        with claimed(out) if processes.main else nullcontext():
            if processes.main:
                record(out, task.value, settings, clips)
            work, training = build(task.value, settings, clips, out, log=log, processes=processes, **runs)
            figures = fit(work, training, out, log, processes, 60 * minutes)
            if processes.main:
                weights = out / f"{'mtov' if task == TaskName.distillation else task.value}.safetensors"
                state, told = work.model.state_dict(), {"figures": figures or {}}
                save_weights(weights, halved(state), configuration.to_dict(work.config), told)
                log(f"{weights}: the averaged weights, half precision")
        return figures is not None

    if clips.unmatched:
        log(f"{split}: {len(clips.unmatched)} of its entries name no video: {short(clips.unmatched)}")
    if whole:
        layers = settings.autoencoder.encoder_layers
        alike = (settings.mtov.condition_layers or layers) == layers  # else E_L cannot start from one
        parts = {part: share for part, share in VIDEO.items() if alike or part != "landmark-autoencoder"}
        runs, done = (
            dict[str, Path | None](),
            True,
        )  # of the parts that mtov starts from, as `build` names them
        for part, share in parts.items():
            run, limit = out / part.value, (minutes or math.inf) * share / sum(parts.values())
            begun, given = resume and (run / CHECKPOINT).exists(), runs if part == TaskName.mtov else {}
            done = done and trained(part, run, begun, limit, **given)
            runs[part.name] = run
    else:
        start = {"autoencoder": autoencoder, "landmark_autoencoder": landmark_autoencoder}
        done = trained(task, out, resume, minutes or math.inf, **start, start_from=start_from)
    if not done:
        log(f"{out}: --resume resumes the run")
