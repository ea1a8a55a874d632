"""The network that sees what is in front of a face: faces, training, figures (docs/lab/cover.md).

python tools/training/train_cover.py faces ../shared/data runs/cover/faces.npz
python tools/training/train_cover.py train runs/cover/faces.npz runs/cover --minutes 20
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from covers.people import People, find_people
from covers.task import CoverTask
from numpy.typing import NDArray
from PIL import Image

from moditalker.config import Config, TrainingConfig, load
from moditalker.features.face.confidence import COVERED, Sight, confident, lips_covered
from moditalker.features.face.cover import load_cover
from moditalker.features.face.identity import Follower
from moditalker.features.face.tracker import FaceTracker
from moditalker.geometry.align import transform
from moditalker.jobs.streams import beside
from moditalker.media import Source, open_source
from moditalker.training.loop import fit
from moditalker.training.processes import Processes
from moditalker.weights.files import halved, save_weights

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


def sights(source: Source, tracker: FaceTracker, config: Config) -> Iterator[Sight | None]:
    """What is known of the face in each frame of a video."""
    size = source.info.height, source.info.width
    for item in Follower(tracker, config.crop, source).follow(source):
        if not item.usable or item.landmarks is None:
            yield None
            continue
        points = transform(item.landmarks[None], item.matrix[None])[0]
        yield Sight(item.crop(config.crop.size), points, item.matrix, size, cut=item.cut)


def measure(videos: list[Path], weights: Path | None, sheets: Path | None, config: Config) -> None:
    """A line for each video: how many frames are not painted and why, and how many lend nothing."""
    tracker, network = FaceTracker(), load_cover(weights)
    total = stopped = 0
    print("| video | frames | covered | other reasons | not learnt from | largest share of the lips |")
    print("|---|---|---|---|---|---|")
    for path in videos:
        source = open_source(path)
        shares, reasons, lends = list[float](), list[str](), list[bool]()
        pictures: list[NDArray[np.uint8]] = []
        seen = beside(
            sights(source, tracker, config),
            partial(confident, cover=network.covered, fps=float(source.info.fps)),
        )
        for sight, item in seen:
            reasons.append(item.reason)
            lends.append(item.learnable)
            if sight is None:
                continue
            front = network.covered(sight.crop, sight.landmarks)
            shares.append(lips_covered(front, sight.landmarks))
            pictures.append(overlaid(sight.crop, front))
        covered = reasons.count(COVERED)
        other = ", ".join(f"{n} {r}" for r, n in Counter(reasons).items() if r not in {"", COVERED}) or "–"
        name = f"{path.parent.name}/{path.name}"
        print(f"| {name} | {len(reasons)} | {covered} | {other} | {lends.count(False)} | {max(shares):.3f} |")
        total, stopped = total + len(reasons), stopped + covered
        if sheets is not None:
            sheets.mkdir(parents=True, exist_ok=True)
            chosen = pictures[:: max(1, len(pictures) // 8)][:8]
            sheet = Image.fromarray(np.concatenate(chosen, axis=1))
            large = sheet.resize((3 * sheet.width, 3 * sheet.height), Image.Resampling.BICUBIC)
            large.save(sheets / f"{path.parent.name}_{path.stem}.png")
    print(f"| all | {total} | {stopped} ({stopped / max(1, total):.2%}) | | | |")


def overlaid(crop: NDArray[np.uint8], front: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A crop above itself with what is in front in magenta."""
    share = 0.6 * front[..., None]
    marked = crop * (1 - share) + share * np.array([255, 0, 255])
    return np.concatenate([crop, marked.astype(np.uint8)])


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
    train.add_argument("--workers", type=int, default=0, help="threads that draw examples ahead")
    check = commands.add_parser("measure")
    check.add_argument("videos", type=Path, nargs="+")
    check.add_argument("--weights", type=Path)
    check.add_argument("--sheets", type=Path)
    given = parser.parse_args()
    config = load("tiny")
    if given.command == "faces":
        given.out.parent.mkdir(parents=True, exist_ok=True)
        find_people(files(given.data), 30, config.crop).save(given.out)
        return
    if given.command == "measure":
        measure(given.videos, given.weights, given.sheets, config)
        return
    people = People.load(given.faces)
    held = HELD_OUT | {name for name in set(people.names) if name.startswith("still") and name.endswith("7")}
    task = CoverTask(config, people.of(held, without=True), people.of(held), BATCH)
    settings = TrainingConfig(
        steps=1_000_000, learning_rate=2e-3, schedule="cosine", ema=0.995, validate_every=250, seed=given.seed
    )
    processes = Processes()
    processes.workers = given.workers
    figures = fit(task, settings, given.out, processes=processes, seconds=given.minutes * 60)
    if figures is None:
        raise SystemExit("stopped; the same command resumes")
    path = given.out / "cover.safetensors"
    extra = {"licence": "Apache-2.0", "figures": figures}
    print(save_weights(path, halved(task.model.state_dict()), {"channels": task.model.channels}, extra))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
