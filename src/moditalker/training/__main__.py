"""``python -m moditalker.training TASK --data CLIPS --split SPLIT --out RUN``: train one part of a preset."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from moditalker.checkpoint import save_weights
from moditalker.config import Config, load, to_dict
from moditalker.data import VideoClip, VideoClips, read_clip
from moditalker.errors import UserError
from moditalker.training.autoencoder import AutoencoderTask
from moditalker.training.loop import Task, fit
from moditalker.training.mtov import MToVTask


def read_split(data: Path, split: Path, held_out: set[str]) -> tuple[list[VideoClip], list[VideoClip]]:
    """Clips to train on and to validate on.

    ``split`` is JSON with lists ``train`` and ``val`` of "speaker/clip.ext"; clips of the speakers
    ``held_out`` go to validation wherever they are listed.
    """
    listed = json.loads(split.read_text())
    train: list[VideoClip] = []
    validation: list[VideoClip] = []
    for part in ("train", "val"):
        for entry in listed[part]:
            path = data / (str(Path(entry).with_suffix("")).replace("/", "_") + ".safetensors")
            if not path.exists():
                continue
            own = train if part == "train" and Path(entry).parts[0] not in held_out else validation
            own.append(read_clip(path))
    if not train or not validation:
        raise UserError(
            f"{split}: {len(train)} clips to train on and {len(validation)} to validate on lie in {data}"
        )
    return train, validation


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m moditalker.training", description=__doc__)
    parser.add_argument("task", choices=["autoencoder", "mtov"])
    parser.add_argument("--data", type=Path, required=True, help="folder of prepared clips")
    parser.add_argument("--split", type=Path, required=True, help="JSON with train and val")
    parser.add_argument("--held-out", default="", help="speakers kept for validation, comma-separated")
    parser.add_argument("--out", type=Path, required=True, help="run folder; a run that is there goes on")
    parser.add_argument(
        "--autoencoder", type=Path, help="weights or run/last.pt of the autoencoder (task mtov)"
    )
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    config: Config = load(arguments.preset, overrides=arguments.set)
    train, held_out = (
        VideoClips(part, config.crop, config.autoencoder)
        for part in read_split(arguments.data, arguments.split, set(arguments.held_out.split(",")))
    )
    task: Task
    if arguments.task == "autoencoder":
        task, training = AutoencoderTask(config, train, held_out), config.autoencoder_training
    else:
        task = MToVTask(config, train, held_out, arguments.autoencoder)
        training = config.mtov_training
    figures = fit(task, training, arguments.out, log=lambda line: print(line, flush=True))
    save_weights(
        arguments.out / "weights.safetensors", task.model.state_dict(), to_dict(config), {"figures": figures}
    )


if __name__ == "__main__":
    main()
