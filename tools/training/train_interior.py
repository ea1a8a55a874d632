"""Learn the inside of mouths (`src/moditalker/assets/interior.safetensors`).

    python tools/training/train_interior.py PERSON... --people FOLDER... --out RUN [--steps 3000]

PERSON: sharp recordings of one person who opens the mouth wide, whose teeth will be seen. FOLDER: pictures
and videos of others; their teeth say how the light on teeth follows the skin. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from interior_task import InteriorTask, find_mouths, learn_tint

from moditalker import config as configuration
from moditalker.config import TrainingConfig
from moditalker.training.loop import fit
from moditalker.weights.files import halved, save_weights

LICENCE = "Apache-2.0; learnt from CC BY 4.0 and public-domain recordings"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("person", type=Path, nargs="+")
    parser.add_argument("--people", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    options = parser.parse_args()
    config = configuration.load("tiny")
    own = list(find_mouths(options.person, config.crop))
    training = TrainingConfig(
        steps=options.steps,
        batch=8,
        learning_rate=5e-3,
        schedule="cosine",
        warmup=30,
        ema=0.99,
        validate_every=500,
    )
    torch.manual_seed(training.seed)
    task = InteriorTask(config, own, training.batch)
    figures = fit(task, training, options.out)
    if figures is not None:
        interior = task.model.interior
        files = [path for folder in options.people for path in sorted(folder.iterdir()) if path.is_file()]
        learn_tint(interior, find_mouths(files, config.crop, every=10), own[::20])
        about = {"licence": LICENCE, "figures": figures}
        save_weights(options.out / "interior.safetensors", halved(interior.state_dict()), {}, about)


if __name__ == "__main__":
    main()
