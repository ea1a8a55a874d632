"""`moditalker train`."""

from __future__ import annotations

from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from reprlib import repr as short
from typing import Annotated

import typer

from moditalker.cli.common import TRAIN, Assignments, app


class TaskName(str, Enum):
    """The parts of a preset."""

    autoencoder = "autoencoder"
    landmark_autoencoder = "landmark-autoencoder"
    mtov = "mtov"
    distillation = "distillation"
    atom = "atom"
    sync_expert = "sync-expert"


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
) -> None:
    """Train one part of a preset.

    Example: moditalker train atom --data dataset --out runs/atom

    Train the autoencoder before mtov, which takes its run by --autoencoder. Distillation lets a trained
    mtov use fewer sampling steps. `moditalker generate --model FOLDER` takes a folder with the weights
    of atom and mtov.
    """
    from moditalker import config as configuration
    from moditalker.data.parts import find_data, parse_speakers
    from moditalker.jobs.files import claimed
    from moditalker.training.build import build
    from moditalker.training.loop import fit
    from moditalker.training.processes import Accelerated, Processes
    from moditalker.training.run import check_folder, record
    from moditalker.weights.files import halved, save_weights

    check_folder(out, resume)
    settings = configuration.load(preset, overrides=assignments or ())
    clips = find_data(data, split, parse_speakers(held_out))
    processes = Accelerated(precision.value) if accelerate or precision != Precision.no else Processes()

    def log(line: str) -> None:
        if processes.main:
            print(line, flush=True)

    with claimed(out) if processes.main else nullcontext():
        if processes.main:
            record(out, task.value, settings, clips)
        if clips.unmatched:
            log(f"{split}: {len(clips.unmatched)} of its entries name no video: {short(clips.unmatched)}")
        work, training = build(
            task.value, settings, clips, out, autoencoder, landmark_autoencoder, start_from, log, processes
        )
        figures = fit(work, training, out, log, processes)
        if processes.main:
            weights = out / f"{'mtov' if task == TaskName.distillation else task.value}.safetensors"
            state, told = work.model.state_dict(), {"figures": figures or {}}
            save_weights(weights, halved(state), configuration.to_dict(work.config), told)
            log(f"{weights}: the averaged weights, half precision")
        if figures is None:
            log(f"{out}: --resume resumes the run")
