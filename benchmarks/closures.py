"""Do the lips touch at p, b and m, and are they open in open vowels? On GRID, by its words' alignments.

    python benchmarks/closures.py grid --cache runs/tracks [--atom FILE] [--clips s1/swab9a.mpg,...]

A bilabial stands at the start of bin, place, blue, by, please, b and p, and at the end of m. Lips touch where
the opening is below `TOUCH` eye distances; a closure is met if they do so within 80 ms of it. The middle of
white, five, nine, now and i is an open vowel. Real lips are measured in the same way.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from natural_speech import tracked

from moditalker.data.recordings import fill_gaps
from moditalker.diffusion.process import Diffusion
from moditalker.features.face.shape import frontalize
from moditalker.geometry.points import lip_opening
from moditalker.motion.sample import sample_motion
from moditalker.talker.talker import MoDiTalker

BEGIN, END = {"bin", "place", "blue", "by", "please", "b", "p"}, {"m"}
OPEN = {"white", "five", "nine", "now", "i"}
TOUCH = 0.025  # eye distances: the landmarks' own error
NEAR = 2  # frames of 40 ms
UNITS = 25_000  # of an alignment, in a second


def words(path: Path) -> list[tuple[float, float, str]]:
    """Start and end in frames of 25 Hz, and the word."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return [(25 * int(a) / UNITS, 25 * int(b) / UNITS, word) for a, b, word in rows]


def counts(opening: np.ndarray, spoken: list[tuple[float, float, str]]) -> np.ndarray:
    """Closures met, closures, open vowels with touching lips, open vowels."""
    met = closures = wrong = vowels = 0
    for start, end, word in spoken:
        if word in BEGIN | END:
            at = round(start if word in BEGIN else end)
            closures += 1
            met += bool(opening[max(0, at - NEAR) : at + NEAR + 1].min() < TOUCH)
        if word in OPEN:
            vowels += 1
            wrong += bool(opening[round((start + end) / 2)] < TOUCH)
    return np.array([met, closures, wrong, vowels])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("grid", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--atom", type=Path)
    parser.add_argument("--clips", default="", help="names as in split.json; by default all that validate")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    talker = MoDiTalker.from_pretrained("tiny", motion=arguments.atom)
    clips = arguments.clips.split(",") if arguments.clips else []
    clips = clips or json.loads((arguments.grid / "split.json").read_text())["val"]
    totals = {name: np.zeros(4, int) for name in ("real", "raw")}
    for name in clips:
        aligned = (arguments.grid / "alignments" / name).with_suffix(".align")
        if not aligned.exists():
            continue
        points, sound = tracked(arguments.grid / name, talker, arguments.cache)
        found = np.isfinite(points).all((1, 2))
        real = np.full(points.shape, np.nan, np.float32)
        real[found] = frontalize(points[found])[0]
        real = fill_gaps(real)
        l_id = real[lip_opening(real).argmin()]
        speech, diffusion = talker.speech_encoder(sound), Diffusion(talker.config.atom_diffusion)
        made = np.concatenate([*sample_motion(talker.atom, diffusion, [speech], l_id)])
        for kind, landmarks in (("real", real), ("raw", made)):
            totals[kind] += counts(lip_opening(landmarks), words(aligned))
    for kind, (met, closures, wrong, vowels) in totals.items():
        print(f"{kind}: {met} of {closures} closures met, lips touch in {wrong} of {vowels} open vowels")


if __name__ == "__main__":
    main()
