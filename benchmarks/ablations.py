"""The paper's ablations (Tables 2 and 3), trained and measured at a small size: a line of settings each.

    python benchmarks/ablations.py motion --data dataset --split split.json --out runs/ablations
    python benchmarks/ablations.py video --data dataset --split split.json --out runs/ablations

A row that was trained before is measured again, not trained. Figures are means over the clips of the split's
``val`` part with 95 % bootstrap intervals; rows of one table see the same data in the same order.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from moditalker import config as configuration
from moditalker.data.clips import VideoBatch
from moditalker.data.parts import Data, find_data, parse_speakers
from moditalker.evaluate.run import summarize
from moditalker.features.face.tracker import FaceTracker
from moditalker.geometry.points import MOUTH, eye_distance, lip_opening
from moditalker.metrics.lips import correlation
from moditalker.metrics.lmd import landmark_distance
from moditalker.training.build import build
from moditalker.training.loop import Task, fit
from moditalker.training.tasks.atom import AtomTask, most_shut
from moditalker.training.tasks.autoencoder import face_psnr
from moditalker.training.tasks.mtov import MToVTask


@dataclass(frozen=True)
class Row:
    """A row of a table: its name, what it sets, and whether it is trained at all."""

    name: str
    settings: tuple[str, ...]
    trained: bool = True


# Without the residual the landmarks themselves are diffused, and another scale brings them to unit variance.
PLAIN = ("atom.first_estimate=0",)
MOTION = (
    Row("ridge regression", ("atom.estimate_layers=0",), trained=False),
    Row(
        "(I) baseline",
        (
            *PLAIN,
            "atom.residual=false",
            "atom.scale=2",
            "atom.landmark_embedding=false",
            "atom.disentangled=false",
        ),
    ),
    Row("(II) + residual", (*PLAIN, "atom.landmark_embedding=false", "atom.disentangled=false")),
    Row("(III) + landmark embedding", (*PLAIN, "atom.disentangled=false")),
    Row("(IV) + disentangled attention", PLAIN),
    Row("(IV) and a linear first estimate [ours]", ("atom.estimate_layers=0",)),
)
PIXELS = ("autoencoder.decoder=pixels", "autoencoder.residual=false", "mtov.first_estimate=false")
VIDEO = (
    Row("(I) no condition", (*PIXELS, "mtov.conditions=[]")),
    Row("(II) + identity frames", (*PIXELS, "mtov.conditions=[identity]")),
    Row("(III) + pose frames", (*PIXELS, "mtov.conditions=[identity,pose]")),
    Row("(IV) (III) + audio by cross-attention", (*PIXELS, "mtov.conditions=[identity,pose,audio]")),
    Row("(V) (III) + landmarks", (*PIXELS, "mtov.conditions=[identity,pose,landmarks]")),
    Row("(V) and the warp decoder [ours]", ()),
)


def motion_figures(task: AtomTask) -> dict[str, list[float]]:
    """Per validation clip: lips' correlation; LMD of mouth and of the face in eye distances."""
    figures: dict[str, list[float]] = {"lip correlation": [], "LMD mouth": [], "LMD face": []}
    for members in task.validation.values():
        for number, (clip, speech) in enumerate(members):
            others = [other for other, _ in members if other is not clip] or [clip]
            made = task.said(speech, most_shut(others[number % len(others)].faces), number)
            frames = min(len(made), len(clip.landmarks))
            made, real = made[:frames], clip.landmarks[:frames]
            unit = eye_distance(real)[:, None, None]
            figures["lip correlation"].append(correlation(lip_opening(made), lip_opening(real)))
            for name, points in (("LMD mouth", MOUTH), ("LMD face", slice(None))):
                figures[name].append(
                    landmark_distance(made[:, points, :2] / unit, real[:, points, :2] / unit)
                )
    return figures


@torch.no_grad()
def video_figures(task: MToVTask) -> dict[str, list[float]]:
    """Per validation clip, planes sampled from noise: PSNR (dB) of the face; LMD of the mouth, found again on
    the picture, in pixels of the crop; the share of frames where no face was found.
    """
    figures: dict[str, list[float]] = {"PSNR": [], "LMD mouth": [], "no face": []}
    tracker = FaceTracker()
    for batch in task.held_out.values():
        output = task.made(batch)
        for i in range(len(output)):
            one = slice(i, i + 1)
            part = VideoBatch(**{name: value[one] for name, value in vars(batch).items()})
            figures["PSNR"].append(float(face_psnr(output[one], part)))
            made, real = (
                mouths(clip, batch.pose[i], task.config, tracker) for clip in (output[i], batch.video[i])
            )
            distance = np.linalg.norm(made - real, axis=-1).mean(-1)
            seen = distance[np.isfinite(distance)]
            figures["LMD mouth"].append(float(seen.mean()) if len(seen) else np.nan)
            figures["no face"].append(1 - len(seen) / len(distance))
    return figures


def mouths(
    region: torch.Tensor, pose: torch.Tensor, config: configuration.Config, tracker: FaceTracker
) -> np.ndarray:
    """Mouth points (S, 20, 2), crop pixels, found on a clip (3, S, H, W); NaN where there is no face."""
    top = pose[:, :, : config.crop.region_top]
    frames = torch.cat([top, region.clamp(-1, 1)], dim=2).permute(1, 2, 3, 0)  # S size size 3
    images = ((frames + 1) * 127.5).round().byte().repeat_interleave(2, 1).repeat_interleave(2, 2).numpy()
    faces = tracker.track(iter(np.pad(images, ((0, 0), (64, 64), (64, 64), (0, 0)))), 25.0)
    nothing = np.full((len(MOUTH), 2), np.nan, np.float32)
    return np.stack([nothing if face is None else face.landmarks[MOUTH, :2] / 2 for face in faces])


def train(task: Task, training: configuration.TrainingConfig, run: Path) -> None:
    """Train, and leave where SIGTERM ends it: what is half-made is not measured or built upon."""
    if fit(task, training, run) is None:
        raise SystemExit("stopped; the same command goes on from there")


def run_row(
    part: str, row: Row, arguments: argparse.Namespace, data: Data, run: Path
) -> dict[str, list[float]]:
    """Train what the row needs, where it has not been, and measure it."""
    config = configuration.load("tiny", overrides=[*row.settings, *arguments.assignments])
    if part == "motion":
        task, training = build("atom", config, data, run)
        if row.trained:
            train(task, training, run)
        else:
            task.model.eval()
        assert isinstance(task, AtomTask)
        return motion_figures(task)
    decoder = arguments.out / f"autoencoder-{config.autoencoder.decoder}"
    first, training = build("autoencoder", config, data, decoder)
    train(first, training, decoder)
    second, training = build("mtov", config, data, run, autoencoder=decoder)
    train(second, training, run)
    assert isinstance(second, MToVTask)
    return video_figures(second)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("motion", "video"), help="Table 2 or Table 3")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--held-out", default="", help="speakers that validate only, comma-separated")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    data = find_data(arguments.data, arguments.split, parse_speakers(arguments.held_out))
    table: dict[str, dict[str, list[float]]] = {}
    for number, row in enumerate(MOTION if arguments.part == "motion" else VIDEO):
        run = arguments.out / f"{arguments.part}-{number}"
        figures = run_row(arguments.part, row, arguments, data, run)
        found = {name: summarize([v for v in values if np.isfinite(v)]) for name, values in figures.items()}
        table[row.name] = {name: [one.mean, one.low, one.high] for name, one in found.items()}
        cells = [f"{name} {mean:.3f} ({a:.3f} to {b:.3f})" for name, (mean, a, b) in table[row.name].items()]
        print(f"| {row.name} | " + " | ".join(cells) + " |", flush=True)
    (arguments.out / f"{arguments.part}.json").write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
