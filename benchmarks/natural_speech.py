"""How well AToM's motion follows people whom it never saw: medians over the people of a folder of videos.

    python benchmarks/natural_speech.py natural/dev --cache runs/tracks [--atom FILE] [--set KEY=VALUE]

FOLDER holds a folder of videos for each person. Real lips are the package's own frontal landmarks, tracked
once and kept in the cache. Sources are not always in sync, so each clip is compared at the lag, within 12
frames, at which the lip opening fits best. Columns: correlation of opening and of width, deviation made over
real of both, lag. Raw motion is AToM's alone; final motion is what `generate` draws.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from moditalker.data.recordings import fill_gaps
from moditalker.data.videos import RATE, SUFFIXES, at_rate
from moditalker.data.worker import FRAME
from moditalker.diffusion.process import Diffusion
from moditalker.features.face.identity import ANCHOR_FACES, ANCHOR_SECONDS, Follower
from moditalker.features.face.shape import frontalize
from moditalker.features.speech.silence import PATIENT, QUICK
from moditalker.geometry.points import lip_opening, mouth_width
from moditalker.media import AudioReader, VideoReader
from moditalker.metrics.lips import best_lag, correlation
from moditalker.motion.sample import sample_motion
from moditalker.talker.steps import Speech
from moditalker.talker.talker import MoDiTalker

MOST = 12  # frames
COLUMNS = ("opening", "width", "opening amplitude", "width amplitude", "lag")


def tracked(path: Path, talker: MoDiTalker, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Image landmarks (S, 68, 3) at 25 Hz, NaN without a face, and the sound (640 S,) at 16 kHz."""
    kept = cache / f"{path.parent.name}_{path.stem}.npz"
    if not kept.exists():
        source = VideoReader(path, planes=False)
        nothing = np.full((68, 3), np.nan, np.float32)
        faces = Follower(talker.tracker, talker.config.crop, source).follow(at_rate(source), float(RATE))
        points = [nothing if face.landmarks is None else face.landmarks for face in faces]
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(kept, points=np.stack(points).astype(np.float32), sound=AudioReader(path).read())
    content = np.load(kept)
    size = len(content["points"]) * FRAME
    sound = content["sound"][:size]
    return content["points"], np.pad(sound, (0, size - len(sound)))


def compare(made: np.ndarray, real: np.ndarray, found: np.ndarray, sized: slice = slice(None)) -> list[float]:
    """Landmarks (S, 68, 3) each, frames with a face (S,) -> a value for each of `COLUMNS`.

    sized: frames whose amplitude counts.
    """
    made = made[: len(real)]
    opening, width = ((measure(made), measure(real)) for measure in (lip_opening, mouth_width))
    truth = [np.where(found, track[1], np.nan) for track in (opening, width)]
    lag, follows = best_lag(opening[0], truth[0], MOST)
    lag = int(lag)
    stop = len(made)
    ours = width[0][max(lag, 0) : stop + min(lag, 0)]
    theirs = truth[1][max(-lag, 0) : stop - max(lag, 0)]
    sizes = [
        np.std(track[0][sized]) / np.nanstd(t[sized])
        for track, t in zip((opening, width), truth, strict=True)
    ]
    return [follows, correlation(ours, theirs), *map(float, sizes), lag]


class Waveform:
    """A waveform as `Speech` reads it, in one chunk."""

    def __init__(self, samples: np.ndarray) -> None:
        self.samples = samples

    def __iter__(self) -> Any:
        yield self.samples.astype(np.float32)


def moves(real: np.ndarray) -> tuple[float, float]:
    """As `Identity.moves` of a source that begins with these frames (S, 68, 3)."""
    looks = real[:: round(ANCHOR_SECONDS * RATE)][:ANCHOR_FACES]
    return float(lip_opening(looks).std()), float(mouth_width(looks).std())


def rows(
    talker: MoDiTalker,
    sound: np.ndarray,
    real: np.ndarray,
    found: np.ndarray,
    l_id: np.ndarray,
    steps: int | None,
) -> dict[str, list[float]]:
    """A value for each of `COLUMNS` of raw and of final motion.

    Of the final motion, either half's amplitude is that of lips whose size the other half has told.
    """
    speech = talker.speech_encoder(sound)
    diffusion = Diffusion(talker.config.atom_diffusion)
    raw = np.concatenate([*sample_motion(talker.atom, diffusion, [speech], l_id, 0, steps)])
    heard: Any = Waveform(sound)
    patience = QUICK if talker.config.atom.causal else PATIENT
    spoken = Speech(heard, len(sound) / 16_000, talker.speech_encoder, ahead=patience)
    final, half = [], len(real) // 2
    for sized, other in ((slice(None, half), real[half:]), (slice(half, None), real[:half])):
        face: Any = SimpleNamespace(anchor=SimpleNamespace(frontal=l_id, moves=moves(other)))
        made = talker.motion(spoken, face, 0, steps).array()
        final.append(compare(made, real, found, sized))
    return {"raw": compare(raw, real, found), "final": np.mean(final, axis=0).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the tracked landmarks")
    parser.add_argument("--atom", type=Path, help="weights of AToM in place of the package's")
    parser.add_argument("--people", default="", help="names of folders, comma-separated; all by default")
    parser.add_argument("--steps", type=int, help="sampling steps")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    talker = MoDiTalker.from_pretrained("tiny", motion=arguments.atom, overrides=arguments.assignments)
    wanted = set(arguments.people.split(",")) - {""}
    people: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(p for p in arguments.folder.glob("*/*") if p.suffix in SUFFIXES):
        if wanted and path.parent.name not in wanted:
            continue
        points, sound = tracked(path, talker, arguments.cache)
        found = np.isfinite(points).all((1, 2))
        real = np.full(points.shape, np.nan, np.float32)
        real[found] = frontalize(points[found])[0]
        real = fill_gaps(real)
        l_id = real[lip_opening(real).argmin()]
        for name, row in rows(talker, sound, real, found, l_id, arguments.steps).items():
            people[path.parent.name][name].append(row)
    print("| | " + " | ".join(f"{kind} {column}" for kind in ("raw", "final") for column in COLUMNS) + " |")
    table = {
        person: np.concatenate([np.mean(kinds["raw"], axis=0), np.mean(kinds["final"], axis=0)])
        for person, kinds in people.items()
    }
    table[f"**median of {len(table)}**"] = np.median(list(table.values()), axis=0)
    for person, values in table.items():
        print(f"| {person} | " + " | ".join(f"{value:.2f}" for value in values) + " |")


if __name__ == "__main__":
    main()
