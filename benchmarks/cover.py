"""The network that sees what is in front of a face: faces, training, figures (docs/lab/cover.md).

python benchmarks/cover.py faces ../shared/data runs/cover/faces.npz
python benchmarks/cover.py train runs/cover/faces.npz runs/cover --minutes 20
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from moditalker import weights
from moditalker.checkpoint import halved, save_weights
from moditalker.config import TrainingConfig, load
from moditalker.training.cover import CoverTask, People, find_people
from moditalker.training.loop import fit

HELD_OUT = {"s22", "s23", "s31", "us3", "us6"}  # and each tenth of the stills
BATCH = 32


def files(data: Path) -> Iterator[tuple[str, Path]]:
    """What may be trained on, by person."""
    for person in sorted((data / "grid").glob("s*")):
        if person.is_dir():
            clips = sorted(p for p in person.iterdir() if p.suffix in {".mpg", ".mp4"})
            yield from ((person.name, clip) for clip in clips[:: max(1, len(clips) // 3)][:3])
    for person in sorted((data / "natural" / "train").iterdir()):
        yield from ((person.name, clip) for clip in sorted(person.glob("*.mp4")))
    for picture in sorted((data / "stills").glob("*/*.jpg")):
        yield f"still {picture.stem[:3]}", picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    faces = commands.add_parser("faces")
    faces.add_argument("data", type=Path)
    faces.add_argument("out", type=Path)
    train = commands.add_parser("train")
    train.add_argument("faces", type=Path)
    train.add_argument("out", type=Path)
    train.add_argument("--minutes", type=float, default=20)
    train.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    config = load("tiny")
    if given.command == "faces":
        given.out.parent.mkdir(parents=True, exist_ok=True)
        find_people(files(given.data), 30, config.crop).save(given.out)
        return
    people = People.load(given.faces)
    held = HELD_OUT | {name for name in set(people.names) if name.startswith("still") and name.endswith("7")}
    task = CoverTask(config, people.of(held, without=True), people.of(held), BATCH)
    settings = TrainingConfig(
        steps=1_000_000, learning_rate=2e-3, schedule="cosine", ema=0.995, validate_every=250, seed=given.seed
    )
    figures = fit(task, settings, given.out, seconds=given.minutes * 60)
    path = (
        given.out / weights.NAMED["cover"].file
        if "cover" in weights.NAMED
        else given.out / "cover.safetensors"
    )
    extra = {"licence": "Apache-2.0", "figures": figures}
    print(save_weights(path, halved(task.model.state_dict()), {"channels": task.model.channels}, extra))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
