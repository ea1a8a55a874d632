"""Draws comparisons as in the paper's Fig. 4: a row for each video, a column for each spoken word.

The paper shows phonemes. GRID's labels are words; label files with phonemes work too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from moditalker.config import CropConfig
from moditalker.errors import UserError
from moditalker.evaluate.observe import Observed, region_of
from moditalker.evaluate.pairs import read_bounded
from moditalker.geometry.align import align

# The lower face, from the nose's base to under the chin, large enough to see teeth.
LOWER = CropConfig(size=240, region_top=80, eye_distance=124.0, eye_row=0.0)
COLUMNS = 8  # at most
LABELS = {".align": 25_000, ".txt": 1}  # endings of label files, and their units in a second
SILENT = {"", "sil", "sp"}  # labels without a word
MAX_BYTES = 1 << 20  # largest label file

_MARGIN, _GAP, _SIDE, _HEAD = 12, 3, 132, 44  # pixels: border, between cells, row labels, column labels
_INK, _PALE = (20, 20, 20), (110, 110, 110)


@dataclass(frozen=True)
class Word:
    """A label from `start` to `end`, seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Moment:
    """A column: its time in seconds, and the word that is spoken ("" if unknown)."""

    time: float
    word: str = ""


@dataclass(frozen=True)
class Row:
    """A video of the comparison. aligned: the clip of the same times whose face places the crop."""

    label: str
    clip: Observed
    aligned: Observed


@dataclass(frozen=True)
class Grid:
    """A comparison: its title, its columns, and for each row a label and pictures (columns, h, w, 3)."""

    title: str
    moments: list[Moment]
    rows: list[tuple[str, NDArray[np.uint8]]]


def read_words(path: Path) -> list[Word]:
    """Read labels: a line for each, with start, end and text; silences are left out.

    .align: GRID's, in 1/25000 s. .txt: in seconds, as Audacity exports its label tracks. Raises UserError.
    """
    if (unit := LABELS.get(path.suffix.lower())) is None:
        raise UserError(f"{path}: words come from {' or '.join(LABELS)} files; give it one of these endings")
    text = read_bounded(path, MAX_BYTES, ", too much for the words of a clip")
    words = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            word = _word(line, unit)
            if word is None:
                raise UserError(
                    f"{path}, line {number}: {line.strip()[:60]!r}; start, end and word are expected, with "
                    f"0 <= start <= end in {'seconds' if unit == 1 else f'1/{unit} s'}"
                )
            words.append(word)
    return [word for word in words if word.text.lower() not in SILENT]


def _word(line: str, unit: int) -> Word | None:
    parts = [*line.split(None, 2), ""]
    try:
        start, end = (float(part) / unit for part in parts[:2])
    except ValueError:
        return None
    return Word(parts[2].strip(), start, end) if 0 <= start <= end < math.inf else None


def find_words(folder: Path, clips: Sequence[Path]) -> dict[Path, list[Word]]:
    """Find the words of the clips that have a file folder/person/clip.align or .txt.

    clips: videos, in a folder for each person. Raises UserError: a file cannot be read, or there is none.
    """
    found = {}
    for clip in clips:
        paths = [folder / clip.parent.name / f"{clip.stem}{ending}" for ending in LABELS]
        if path := next((path for path in paths if path.is_file()), None):
            found[clip] = read_words(path)
    if not found:
        raise UserError(
            f"{folder} holds words of none of the clips; a file person/clip.align or "
            f"person/clip.txt for each clip is expected, such as {clips[0].parent.name}/{clips[0].stem}.align"
        )
    return found


def choose_moments(words: Sequence[Word], opening: NDArray[np.floating], fps: float) -> list[Moment]:
    """Choose at most `COLUMNS` moments: in each word the frame with the most open, or most shut, lips.

    opening: lip opening of the real speaker, (S,), NaN without a face; fps: its frames a second. "Most" is by
    rank among the clip's frames, so that shut lips, which differ little, count like open ones. Without words
    the clip is cut into equal parts. More words than columns are thinned out evenly.
    """
    length = len(opening) / fps
    spoken = [word for word in words if word.start < length]
    if not spoken:
        edges = np.linspace(0, length, COLUMNS + 1)
        spoken = [Word("", float(a), float(b)) for a, b in pairwise(edges)]
    if len(spoken) > COLUMNS:
        spoken = [spoken[i] for i in np.linspace(0, len(spoken) - 1, COLUMNS).round().astype(int)]
    known = np.isfinite(opening)
    extreme = np.full(len(opening), -1.0)
    ranks = opening[known].argsort().argsort()
    extreme[known] = np.abs(ranks / max(len(ranks) - 1, 1) - 0.5)
    moments = []
    for word in spoken:
        first = min(int(word.start * fps), len(opening) - 1)
        last = max(math.ceil(word.end * fps), first + 1)
        moments.append(Moment((first + int(extreme[first:last].argmax())) / fps, word.text))
    return moments


def compare(title: str, spoken: Observed, words: Sequence[Word], rows: Sequence[Row]) -> Grid:
    """Compare the lower faces of some videos at moments of the speech.

    spoken: the real video of the speech, whose lips choose the moments. The shortest row sets the end.
    """
    seconds = min(len(one.frames) / one.fps for row in rows for one in (row.clip, row.aligned))
    moments = choose_moments(words, spoken.opening[: math.ceil(seconds * spoken.fps)], spoken.fps)
    return Grid(title, moments, [(row.label, _lower_faces(row, moments)) for row in rows])


def _lower_faces(row: Row, moments: Sequence[Moment]) -> NDArray[np.uint8]:
    at, there = (
        np.array([min(round(m.time * one.fps), len(one.frames) - 1) for m in moments])
        for one in (row.clip, row.aligned)
    )
    matrices = align(row.aligned.landmarks, LOWER, row.aligned.fps)[there]
    return np.asarray(region_of(row.clip.frames[at], matrices, LOWER), np.uint8)


def draw_grids(grids: Sequence[Grid]) -> Image.Image:
    """Draw all comparisons in one picture, below each other."""
    height, width = LOWER.size - LOWER.region_top + _GAP, LOWER.size + _GAP
    heights = [_HEAD + 30 + height * len(grid.rows) + _MARGIN for grid in grids]
    columns = max(len(grid.moments) for grid in grids)
    picture = Image.new("RGB", (2 * _MARGIN + _SIDE + width * columns, _MARGIN + sum(heights)), "white")
    pen = ImageDraw.Draw(picture)
    top = _MARGIN
    for grid, tall in zip(grids, heights, strict=True):
        pen.text((_MARGIN, top), grid.title, _INK, font(18))
        for column, moment in enumerate(grid.moments):
            middle = _MARGIN + _SIDE + column * width + LOWER.size // 2
            pen.text((middle, top + 30), _fitting(moment.word, LOWER.size), _INK, font(20), anchor="ma")
            pen.text((middle, top + 53), f"{moment.time:.2f} s", _PALE, font(14), anchor="ma")
        for number, (label, faces) in enumerate(grid.rows):
            y = top + _HEAD + 30 + number * height
            lines = _wrapped(label, _SIDE - 10)
            pen.multiline_text((_MARGIN, y + height // 2), lines, _INK, font(16), anchor="lm", spacing=5)
            for column, face in enumerate(faces):
                picture.paste(Image.fromarray(face), (_MARGIN + _SIDE + column * width, y))
        top += tall
    return picture


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Letters of so many pixels, Pillow's own."""
    return ImageFont.load_default(size)


def _fitting(text: str, width: int) -> str:
    """Cut a text to a width in pixels."""
    while text and font(20).getlength(text) > width:
        text = text[:-2].rstrip() + "…"
    return text


def _wrapped(text: str, width: int) -> str:
    """Break the text into lines of at most so many pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font(16).getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
