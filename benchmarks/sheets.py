"""Contact sheets of mouths to look at, real and by several models, at 100 % and 300 %; one for each face.

Videos that are there, as the manifests or folders of pairs that `moditalker evaluate` and `benchmark` have:

    python benchmarks/sheets.py --row "version 1=runs/dev/landmarks-first-version.jsonl" \\
        --row "new=runs/dev/landmarks.jsonl" --out runs/sheets

Pictures, which are made to speak first (OUT/videos; OUT/NAME.jsonl is for `moditalker evaluate`):

    python benchmarks/sheets.py --pictures ../shared/data/pictures --voice speech.wav \\
        --model "version 1=tiny,compose.enabled=false" --model new=tiny --out runs/sheets
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from moditalker.errors import UserError
from moditalker.evaluate.competitors import Competitor, load, read_competitors
from moditalker.evaluate.grids import choose_moments, font
from moditalker.evaluate.observe import Observed, observe
from moditalker.evaluate.pairs import Pair, read_pairs, write_pairs
from moditalker.features.face.tracker import FaceTracker
from moditalker.geometry.points import MOUTH, eye_distance

COLUMNS = 6  # moments, at most
FACE_WIDTH, MOUTH_WIDTH = 2.4, 1.5  # eye distances that the cells show, at 100 % and enlarged
ENLARGED = 3  # times

_MARGIN, _GAP, _LABEL = 12, 3, 18  # pixels: border, between cells, height of a label
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Shown:
    """A row: its label and its video, or picture."""

    label: str
    clip: Observed


def sheet_of(pairs: Sequence[tuple[str, Pair]], tracker: FaceTracker, seconds: float = 30.0) -> Image.Image:
    """The sheet of some videos of one face, each with the name of who made it: the real one first.

    The real one is the reference, else the face, a video or a picture, of the first pair. Raises
    UserError: a file that cannot be read or shows no face.
    """
    first = pairs[0][1]
    real = first.reference or first.face or first.speech
    assert real is not None
    rows = [Shown("real", observe(real, tracker, seconds, recode=False, picture=True))]
    rows += [Shown(name, observe(pair.generated, tracker, seconds, recode=False)) for name, pair in pairs]
    return mouth_sheet(first.name, rows)


def mouth_sheet(title: str, rows: Sequence[Shown]) -> Image.Image:
    """All rows at 100 %, then all of them enlarged, around the mouth of each row's own frame.

    Columns are moments in equal parts of the video at which the lips are most open or most shut: those
    of the first row, or of the second where the first is a picture, which is the same in each column.
    """
    timed = [row.clip for row in rows if not row.clip.picture] or [rows[0].clip]
    length = min(len(clip.frames) / clip.fps for clip in timed)
    moments = choose_moments((), timed[0].opening[: max(1, round(length * timed[0].fps))], timed[0].fps)
    if len(moments) > COLUMNS:
        moments = [moments[i] for i in np.linspace(0, len(moments) - 1, COLUMNS).round().astype(int)]
    times = [moment.time for moment in moments]
    unit = max(float(np.nanmedian(eye_distance(row.clip.landmarks))) for row in rows)
    bands = [
        [(row.label, _cells(row.clip, times, max(round(width * unit), 16), times_larger)) for row in rows]
        for width, times_larger in ((FACE_WIDTH, 1), (MOUTH_WIDTH, ENLARGED))
    ]
    sides = [band[0][1][0].width + _GAP for band in bands]
    head = _MARGIN + 2 * _LABEL
    height = head + sum((side + _LABEL) * len(rows) for side in sides) + _MARGIN
    picture = Image.new("RGB", (2 * _MARGIN + max(sides) * len(times), height), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((_MARGIN, _MARGIN), title, "black", font(16))
    top = head
    for (percent, band), side in zip(((100, bands[0]), (100 * ENLARGED, bands[1])), sides, strict=True):
        for label, cells in band:
            told = ", ".join(f"{time:.2f}" for time in times)
            pen.text((_MARGIN, top), f"{label}, {percent} %, at {told} s", "black", font(13))
            for column, cell in enumerate(cells):
                picture.paste(cell, (_MARGIN + column * side, top + _LABEL))
            top += side + _LABEL
    return picture


def _cells(clip: Observed, times: Sequence[float], side: int, larger: int) -> list[Image.Image]:
    """Squares of the clip's own pixels around its mouth, enlarged so many times."""
    cells = []
    for time in times:
        at = 0 if clip.picture else min(round(time * clip.fps), len(clip.frames) - 1)
        seen = np.flatnonzero(clip.seen)
        near = int(seen[np.abs(seen - at).argmin()])  # where this frame shows no face, the place of another's
        middle = clip.landmarks[near, MOUTH, :2].mean(0).round().astype(int)
        cell = Image.fromarray(_cut(clip.frames[at], middle, side))
        cells.append(cell.resize((side * larger, side * larger), Image.Resampling.BICUBIC))
    return cells


def _cut(frame: NDArray[np.uint8], middle: NDArray[np.integer], side: int) -> NDArray[np.uint8]:
    """A square of a frame, white where it has no pixels."""
    square = np.full((side, side, 3), 255, np.uint8)
    (left, top), (height, width) = (int(x) - side // 2 for x in middle), frame.shape[:2]
    rows = slice(max(top, 0), max(min(top + side, height), 0))
    columns = slice(max(left, 0), max(min(left + side, width), 0))
    part = frame[rows, columns]
    if part.size:
        square[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part
    return square


def save_sheet(picture: Image.Image, path: Path) -> None:
    """As JPEG without chroma subsampling, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "JPEG", quality=93, subsampling=0)


def speaking_pictures(models: Sequence[Competitor], folder: Path, voice: Path, out: Path) -> dict[str, Path]:
    """Make each picture of a folder speak by each model; manifests of what was made, by the models' names.

    Videos that are there are not made again.
    """
    pictures = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES]
    manifests = {}
    for model in models:
        talker, pairs = load(model, "tiny"), []
        for picture in pictures:
            made = out / "videos" / model.slug / f"{picture.stem}.mp4"
            made.parent.mkdir(parents=True, exist_ok=True)
            try:
                if not made.exists():
                    talker.generate(picture, voice).save(made)
                pairs.append(Pair(picture.stem, made, face=picture))
            except UserError as error:
                print(f"{model.name}: {error}")
        manifests[model.name] = out / f"{model.slug}.jsonl"
        write_pairs(manifests[model.name], pairs)
    return manifests


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", default=[], metavar="NAME=PAIRS", help="videos of a model")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=WEIGHTS[,KEY=VALUE...]")
    parser.add_argument("--pictures", type=Path, help="folder of pictures that each model makes speak")
    parser.add_argument("--voice", type=Path, help="what they say")
    parser.add_argument("--seconds", type=float, default=30.0, help="looked at of each video")
    parser.add_argument("--out", type=Path, required=True, help="folder of the sheets, NAME.jpg each")
    given = parser.parse_args(arguments)
    rows = {name: Path(path) for name, _, path in (row.partition("=") for row in given.row)}
    if given.pictures is not None:
        if given.voice is None or not given.model:
            parser.error("--pictures needs --voice and at least one --model")
        rows |= speaking_pictures(read_competitors(given.model), given.pictures, given.voice, given.out)
    if not rows:
        parser.error("give --row, or --pictures")
    sheets: dict[str, list[tuple[str, Pair]]] = {}
    for name, path in rows.items():
        for pair in read_pairs(path):
            sheets.setdefault(pair.name, []).append((name, pair))
    tracker = FaceTracker()
    for title, pairs in sheets.items():
        try:
            save_sheet(sheet_of(pairs, tracker, given.seconds), given.out / f"{title}.jpg")
        except UserError as error:
            print(f"{title}: {error}")
    print(f"{given.out}: {len(sheets)} sheets")


if __name__ == "__main__":
    main()
