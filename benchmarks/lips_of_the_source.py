"""Do lips in the output depend on the source's lips? Does every voice move them? Is silence still?

    python benchmarks/lips_of_the_source.py shared/data/natural/dev shared/data/voices --faces d04,d08,d09

Each face says each voice. The video stage is the same for all. Found again on the frames that were made:
- error: correlation of what the lips' opening misses of the wanted one with the source's own opening, both in
  the picture, and of the frontal faces that are fitted to it;
- match: mouth-audio match of frames and voice, and the frames by which the lips come late;
- still: range of the opening with silence and with a beep, over the range that the voices make.
The wanted opening is the motion's; the line that carries it to what is found is fitted and taken out, so a
lip that is always too thick by a pixel is no error here.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from moditalker.config.limits import RATE
from moditalker.features.face.shape import frontalize
from moditalker.geometry.points import lip_opening
from moditalker.jobs.streams import Timeline
from moditalker.media import SAMPLE_RATE, AudioReader, write_wav
from moditalker.metrics.lips import correlation
from moditalker.metrics.sync_expert import load_expert
from moditalker.talker.talker import MoDiTalker

QUIET = ("silence", "beep")


def spoken(talker: MoDiTalker, face: Path, voice: Path) -> tuple[np.ndarray, ...]:
    """Frames, landmarks found on them (NaN without a face), openings wanted (S,), the source's landmarks."""
    video = talker.generate(face, voice)
    wish = Timeline(iter(video.motion), RATE)  # type: ignore[arg-type]
    images, wanted = [], []
    for frame, image in video:
        images.append(image)
        wanted.append(float(lip_opening(wish.at(float(frame.time)))))
    fps, nothing = float(video.face.source.info.fps), np.full((68, 3), np.nan, np.float32)
    found = talker.tracker.track(iter(images), fps)
    points = np.stack([nothing if one is None else one.landmarks for one in found])
    own = [nothing if one.landmarks is None else one.landmarks for one in video.face]
    return np.stack(images), points, np.array(wanted), np.stack(own)


def frontal_opening(points: np.ndarray) -> np.ndarray:
    """Lip opening of the frontal face, (S,); NaN without a face."""
    seen, result = np.isfinite(points).all((1, 2)), np.full(len(points), np.nan)
    result[seen] = lip_opening(frontalize(points[seen])[0])
    return result


def missed(made: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """What is left of an opening that was found once the line through the wanted one is taken out, (S,)."""
    seen = np.isfinite(made)
    line = np.polyfit(wanted[seen], made[seen], 1)
    return np.asarray(made - np.polyval(line, wanted))


def quiet(folder: Path, seconds: float) -> list[Path]:
    """Files with nothing and with a beep of 1 kHz."""
    beep = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)
    sounds = dict(zip(QUIET, (np.zeros_like(beep), beep), strict=True))
    for name, sound in sounds.items():
        write_wav(folder / f"{name}.wav", sound)
    return [folder / f"{name}.wav" for name in QUIET]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faces_folder", type=Path)
    parser.add_argument("voices", type=Path)
    parser.add_argument("--faces", default="", help="names of folders, comma-separated; all by default")
    parser.add_argument("--model", default="tiny")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    talker, expert = MoDiTalker.from_pretrained(arguments.model), load_expert()
    names = set(arguments.faces.split(",")) - {""}
    faces = [p for p in sorted(arguments.faces_folder.glob("*/*.mp4")) if p.parent.name in names or not names]
    voices = sorted(p for p in arguments.voices.iterdir() if p.suffix in (".flac", ".wav", ".ogg", ".mp3"))
    matches, stills = defaultdict[str, list[float]](list), list[float]()
    errors = list[tuple[float, float]]()
    with tempfile.TemporaryDirectory() as folder:
        silences = quiet(Path(folder), 3.0)
        for face in faces:
            ranges = list[float]()
            for voice in [*voices, *silences]:
                row = f"| {face.parent.name} | {voice.stem} |"
                images, points, wanted, own = spoken(talker, face, voice)
                made = lip_opening(points)
                width = float(np.nanpercentile(made, 95) - np.nanpercentile(made, 5))
                if voice in silences:
                    stills.append(width / np.median(ranges))
                    print(f"{row} still {stills[-1]:.3f}, wanted {np.ptp(wanted):.4f} |", flush=True)
                    continue
                ranges.append(width)
                picture = correlation(missed(made, wanted), lip_opening(own))
                frontal = correlation(missed(frontal_opening(points), wanted), frontal_opening(own))
                errors.append((picture, frontal))
                fps = len(images) / float(AudioReader(voice).seconds)
                found = expert.match(images, points, AudioReader(voice).read(), fps)
                matches[voice.stem].append(found.match)
                row += f" error {picture:+.2f}, frontal {frontal:+.2f} |"
                row += f" follows {correlation(made, wanted):.2f} |"
                print(f"{row} match {found.match:.2f}, late by {found.offset} |", flush=True)
    for name, values in zip(("in the picture", "of frontal faces"), np.array(errors).T, strict=True):
        sizes = np.median(np.abs(values))
        print(f"error {name}: median {np.median(values):+.3f}, median of sizes {sizes:.3f}")
    print("match: " + ", ".join(f"{name} {np.median(values):.2f}" for name, values in matches.items()))
    print(f"still: {np.median(stills):.3f} of the speaking range in the median, {max(stills):.3f} at most")


if __name__ == "__main__":
    main()
