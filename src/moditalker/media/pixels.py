"""Converts frames between RGB and YUV, rotates them upright, maps HDR to BT.709."""

from __future__ import annotations

from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import Interpolation

from moditalker.media.files import Color, Orientation, Pixels, Samples

PQ, HLG = 16, 18  # transfer characteristics (ITU-T H.273)
EXACT = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND)  # without: half a grey level darker
EXACT |= int(Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP)

_SCALER_REACH = 16  # pixels beyond a change that its conversion to YUV may reach, and more


def upright(image: Pixels, orientation: Orientation) -> Pixels:
    """As it is meant to be seen."""
    transpose, flip_x, flip_y = orientation
    image = image.swapaxes(0, 1) if transpose else image
    return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def on_white(image: Pixels) -> Pixels:
    """(H, W, 4) with alpha -> (H, W, 3)."""
    colors, alpha = image[..., :3].astype(np.uint16), image[..., 3:].astype(np.uint16)
    return cast(Pixels, ((colors * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8))


def planes_of(frame: av.VideoFrame) -> list[Pixels]:
    """Views of the frame's planes, uint8 or (beyond 8 bits) uint16, without the padding of their lines."""
    kind: Any = np.uint8 if bits_of(frame.format) == 8 else np.uint16
    size = np.dtype(kind).itemsize
    rows = (np.frombuffer(cast(Any, p), kind).reshape(-1, p.line_size // size) for p in frame.planes)
    return [row[: p.height, : p.width] for row, p in zip(rows, frame.planes, strict=True)]


def bits_of(form: Any) -> int:
    """Bits of a sample of a pixel format."""
    return max((component.bits for component in form.components), default=8)


def to_yuv(image: Pixels, color: Color, form: str = "yuv420p") -> av.VideoFrame:
    """RGB (H, W, 3) -> a planar YUV format."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    tags: dict[str, Any] = {"dst_colorspace": color.matrix, "dst_color_range": color.range}
    return frame.reformat(format=form, interpolation=EXACT, threads=1, **tags)


def paint(native: av.VideoFrame, own: list[Pixels], before: Pixels, after: Pixels, color: Color) -> None:
    """Fill the planes of a frame with its own samples (before), changed by what makes it look like after."""
    planes, form = planes_of(native), native.format
    for plane, samples in zip(planes, own, strict=True):
        plane[:] = samples
    changed = before != after  # H W 3
    rows = np.flatnonzero(changed.reshape(len(changed), -1).any(1))
    columns = np.flatnonzero(changed.any(0).any(1))
    if not len(rows):
        return
    top, left = (max(0, line[0] - _SCALER_REACH) // 2 * 2 for line in (rows, columns))
    bottom, right = ((line[-1] + 2 + _SCALER_REACH) // 2 * 2 for line in (rows, columns))
    # Both conversions round alike: their difference is the change alone, and 0 where nothing changed.
    new, old = (
        planes_of(to_yuv(image[top:bottom, left:right], color, form.name)) for image in (after, before)
    )
    for plane, painted, source in zip(planes, new, old, strict=True):
        down, across = (after.shape[axis] // plane.shape[axis] for axis in (0, 1))
        part = plane[top // down :, left // across :][: len(painted), : painted.shape[1]]
        part[:] = (part.astype(np.int32) + painted - source).clip(0, (1 << bits_of(form)) - 1)


def light_of(transfer: int) -> Samples:
    """Light of each 16-bit code value of PQ or HLG; 1 is diffuse white (203 cd/m2, ITU-R BT.2408)."""
    code = np.arange(65536) / 65535
    if transfer == PQ:
        root = code ** (32 / 2523)
        light = 10_000 * (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (8192 / 1305)
    else:
        scene = np.where(
            code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
        )
        light = 1000 * scene**1.2
    return cast(Samples, (light / 203).astype(np.float32))


_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def tone_mapped(light: Samples) -> Pixels:
    """Light (H, W, 3) of BT.2020 -> BT.709 pixels: highlights above 3/4 of diffuse white are rolled off."""
    light = np.maximum(light @ _BT2020_TO_BT709.T, 0)
    light = np.where(light < 0.75, light, 1 - 0.25 * np.exp((0.75 - light) / 0.25))
    return cast(Pixels, (255 * light ** (1 / 2.2) + 0.5).astype(np.uint8))
