"""Train the painter of the inside of mouths (`src/moditalker/assets/interior.safetensors`).

    python tools/train_interior.py PEOPLE... --style PERSON --out RUN [--steps 900]

PEOPLE: folders that hold a folder of videos and pictures for each person. PERSON: whose teeth will be
painted, which wants a sharp recording of somebody who opens the mouth wide; each of its frames is used. The
mouths are found once and kept in RUN/mouths.safetensors; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from moditalker import config as configuration
from moditalker.config import TrainingConfig
from moditalker.training.loop import fit
from moditalker.training.tasks.interior import InteriorTask, Mouth, find_mouths
from moditalker.weights.files import halved, load_weights, save_weights

LICENCE = "Apache-2.0; learnt from CC BY 4.0 and public-domain recordings"
HELD = 8  # one in so many frames of PERSON validates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("people", type=Path, nargs="+")
    parser.add_argument("--style", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--most-files", type=int, default=6, help="of one person")
    options = parser.parse_args()
    config = configuration.load("tiny")
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "mouths.safetensors"
    if not kept.exists():
        people = [
            (folder.name, sorted(path for path in folder.iterdir() if path.is_file())[: options.most_files])
            for root in options.people
            for folder in sorted(root.iterdir())
            if folder.is_dir()
        ]
        others = [one for one in people if one[0] != options.style]
        own = [one for one in people if one[0] == options.style]
        mouths = [*find_mouths(others, config.crop), *find_mouths(own, config.crop, stride=0.0)]
        keep(mouths, kept)
    mouths = read(kept)
    own = [mouth for mouth in mouths if mouth.person == options.style]
    judged = own[HELD - 1 :: HELD]
    learnt = [mouth for mouth in mouths if all(mouth is not one for one in judged)]
    training = TrainingConfig(
        steps=options.steps,
        batch=8,
        learning_rate=2e-3,
        schedule="cosine",
        warmup=30,
        ema=0.99,
        validate_every=100,
    )
    torch.manual_seed(training.seed)
    task = InteriorTask(config, learnt, judged, training.batch, options.style)
    figures = fit(task, training, options.out)
    if figures is not None:
        painter = task.painter(options.style)
        about = {"licence": LICENCE, "figures": figures}
        state = halved(painter.state_dict())
        save_weights(options.out / "interior.safetensors", state, painter.describe(), about)


def keep(mouths: list[Mouth], path: Path) -> None:
    """Write mouths, to be read by `read`."""
    state = {
        "pictures": torch.from_numpy(np.stack([mouth.picture for mouth in mouths])),
        "landmarks": torch.from_numpy(np.stack([mouth.landmarks for mouth in mouths])),
    }
    save_weights(path, state, {"people": json.dumps([mouth.person for mouth in mouths])})


def read(path: Path) -> list[Mouth]:
    """Mouths that `keep` wrote."""
    state, about = load_weights(path)
    people = json.loads(about["config"]["people"])
    pairs = zip(people, state["pictures"].numpy(), state["landmarks"].numpy(), strict=True)
    return [Mouth(*one) for one in pairs]


if __name__ == "__main__":
    main()
