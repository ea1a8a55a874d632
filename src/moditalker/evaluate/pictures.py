"""Draws pictures for the report: contact sheets, and curves of lip opening."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moditalker.evaluate.observe import FACE, Case, Observed
from moditalker.geometry.align import align
from moditalker.geometry.raster import warp

COLUMNS, SIDE = 8, 128  # pictures in a row, and their pixels
DIFFERENCE = 4  # factor of the difference


def contact_sheet(case: Case) -> bytes:
    """A JPEG of aligned faces, evenly over time: the real video, the generated one, their difference times 4.

    The real video is the reference, else the face clip, else the speech's. The last has no difference,
    because it shows another face.
    """
    real = case.reference or case.face or case.speech
    assert real is not None
    at = np.linspace(0, len(case.generated.frames) - 1, COLUMNS).round().astype(int)
    comparable = not real.picture and real in (case.reference, case.face)
    above = _faces(real, np.zeros_like(at) if real.picture else at, real)
    below = _faces(case.generated, at, real if comparable else case.generated)
    rows = [above, below]
    if comparable:
        rows.append(np.clip(DIFFERENCE * np.abs(above.astype(int) - below), 0, 255).astype(np.uint8))
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "JPEG", quality=88)
    return file.getvalue()


def _faces(clip: Observed, at: NDArray[np.intp], aligned: Observed) -> NDArray[np.uint8]:
    """Frames of a clip (n, SIDE, SIDE, 3), cropped by the alignment of another clip's face."""
    matrices = align(aligned.landmarks, FACE, aligned.fps)
    shown = np.asarray(warp(clip.frames[at], matrices[at] * (SIDE / FACE.size), SIDE), np.uint8)
    return shown


def curves(tracks: dict[str, Sequence[float | None]], fps: float, width: int = 640, height: int = 110) -> str:
    """Draw lines over time as SVG, all on one scale; None is a gap. The first is bold."""
    values = [v for track in tracks.values() for v in track if v is not None]
    if not values:
        return ""
    longest = max(len(track) for track in tracks.values())
    high = max(max(values), 1e-6)
    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">']
    for second in range(int(longest / fps) + 1):
        x = width * second * fps / max(longest - 1, 1)
        parts.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - 14}" class="grid"/>')
        parts.append(f'<text x="{x + 2:.1f}" y="{height - 2}">{second} s</text>')
    for number, track in enumerate(tracks.values()):
        path, pen = [], "M"
        for i, value in enumerate(track):
            if value is None:
                pen = "M"
                continue
            x, y = width * i / max(longest - 1, 1), (height - 18) * (1 - value / high) + 2
            path.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        parts.append(f'<path class="line{number}" d="{" ".join(path)}"/>')
    return "".join([*parts, "</svg>"])
