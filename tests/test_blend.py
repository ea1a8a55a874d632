"""Paste-back: what it must leave alone, what it must cover, and that nothing shows."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from moditalker.config import CropConfig
from moditalker.geometry.align import inverse, transform
from moditalker.geometry.raster import warp
from moditalker.metrics.flicker import flicker
from moditalker.metrics.psnr import psnr
from moditalker.metrics.seam import seam_ratio
from moditalker.video.blend import Blender

CROP = CropConfig(size=128, region_top=56, pose_rows=72, eye_distance=42, eye_row=26)
TO_REGION = np.array([[0, 0, 0], [0, 0, 56]])
HEIGHT, WIDTH = 200, 240


def _face(opening: float = 0.0) -> np.ndarray:
    """68 points in crop pixels; the jaw and the lower lip go down by `opening`."""
    points = np.zeros((68, 2), np.float32)
    angle = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([64 + 46 * np.cos(angle), 40 + (66 + opening) * np.sin(angle)], axis=1)
    points[17:27] = np.stack([np.linspace(30, 98, 10), np.full(10, 14)], axis=1)
    points[27:31] = np.stack([np.full(4, 64), np.linspace(24, 50, 4)], axis=1)
    points[31:36] = np.stack([np.linspace(55, 73, 5), np.full(5, 58)], axis=1)
    for start, x in ((36, 43), (42, 85)):
        turn = np.linspace(0, 2 * np.pi, 6, endpoint=False)
        points[start : start + 6] = np.stack([x + 8 * np.cos(turn), 26 + 3 * np.sin(turn)], axis=1)
    for start, count, width, height in ((48, 12, 17, 7), (60, 8, 13, 2)):
        turn = np.linspace(np.pi, 3 * np.pi, count, endpoint=False)
        y = np.sin(turn) * height
        points[start : start + count] = np.stack(
            [64 + width * np.cos(turn), 78 + y + (y > 0) * opening], axis=1
        )
    return points


def _matrix(scale: float = 0.84, degrees: float = 5.0) -> np.ndarray:
    """Source pixel -> crop pixel; the crop's middle is the frame's."""
    turn = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.concatenate([linear, (63.5 - linear @ [WIDTH / 2, HEIGHT / 2])[:, None]], axis=1)


def _frame(points: np.ndarray, matrix: np.ndarray, seed: int = 0) -> np.ndarray:
    """A frame (H, W, 3) with a skin-coloured face on blue, dark mouth, smooth texture, a little noise."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    at = transform(np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float64), matrix).reshape(
        HEIGHT, WIDTH, 2
    )
    jaw, lips, inner = points[:17], points[48:60], points[60:]

    def inside(outline: np.ndarray, softness: float = 1.5) -> np.ndarray:
        centre, size = (outline.max(0) + outline.min(0)) / 2, np.ptp(outline, axis=0) / 2
        radius = np.hypot(*np.moveaxis((at - centre) / size, -1, 0))
        return np.clip((1 - radius) * size.min() / softness + 0.5, 0, 1)[..., None]

    whole = np.concatenate([jaw, 2 * jaw[[0, 16]].mean(0) - jaw])  # the jaw's ellipse, closed
    skin = np.array([190.0, 140, 110]) + 10 * np.sin(at[..., :1] / 9) + 8 * np.cos(at[..., 1:] / 7)
    image = np.array([40.0, 120, 190]) * np.ones((HEIGHT, WIDTH, 1))
    for outline, colour in (
        (whole, skin),
        (lips, np.array([170.0, 70, 70])),
        (inner, np.array([40.0, 20, 20])),
    ):
        image = image + inside(outline) * (colour - image)
    image = image + np.random.default_rng(seed).normal(0, 1.5, image.shape)
    return np.clip(image, 0, 255).round().astype(np.uint8)


def _region(frame: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return warp(frame[None].astype(np.float32), (matrix - TO_REGION)[None], (72, 128))[0] / 127.5 - 1


@pytest.mark.parametrize("scale", [0.3, 0.84, 1.2])
def test_own_region_comes_back(scale: float) -> None:
    matrix, points = _matrix(scale), _face()
    frame = _frame(points, matrix)
    before = frame.copy()
    pasted = Blender(CROP).paste(frame, _region(frame, matrix), matrix, points, points)
    assert (frame == before).all()
    assert pasted.frame.dtype == np.uint8
    assert pasted.mask.shape == frame.shape[:2]
    assert pasted.mask.dtype == np.float32
    assert psnr(pasted.frame, frame, pasted.mask) > 38
    mask = Blender(CROP).native_mask(frame.shape[:2], matrix, points, points)
    np.testing.assert_array_equal(mask, pasted.mask)


def test_pixels_outside_the_mask_are_the_sources() -> None:
    matrix, points = _matrix(), _face()
    frame = _frame(points, matrix)
    pasted = Blender(CROP).paste(frame, np.ones((72, 128, 3)), matrix, points, _face(8))
    untouched = pasted.mask == 0
    assert (pasted.frame[untouched] == frame[untouched]).all()
    assert 0 <= pasted.mask.min() <= pasted.mask.max() <= 1
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    at = transform(np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float64), matrix).reshape(
        HEIGHT, WIDTH, 2
    )
    beyond = (at[..., 1] <= 56) | (at[..., 1] >= 127) | (at[..., 0] <= 0) | (at[..., 0] >= 127)
    assert (pasted.mask[beyond] == 0).all()
    assert 0.05 < (pasted.mask > 0.5).mean() < 0.2


@pytest.mark.parametrize(("before", "after"), [(0, 9), (9, 0)])
def test_mask_covers_both_chins_and_hugs_them(before: float, after: float) -> None:
    blender = Blender(CROP)
    faces = [torch.from_numpy(_face(opening)) for opening in (before, after)]
    mask = blender.mask(*faces).numpy()
    for face in faces:
        for x, y in face[6:11].numpy():
            assert mask[round(float(y)) - 56, round(float(x))] > 0.9
    lowest = max(float(face[8, 1]) for face in faces)
    assert mask[min(round(lowest) + 11, 127) - 56, 64] == 0
    assert (mask[0] == 0).all()
    assert (mask[:, 0] == 0).all()
    assert (mask[-1] == 0).all()
    np.testing.assert_array_equal(mask, blender.mask(*faces[::-1]).numpy())


def test_mask_moves_as_little_as_the_landmarks() -> None:
    blender = Blender(CROP)
    face = torch.from_numpy(_face(3))
    for seed in range(5):
        quiver = 0.1 * torch.randn(68, 2, generator=torch.Generator().manual_seed(seed))
        change = (blender.mask(face + quiver, face) - blender.mask(face, face)).abs().max()
        assert change < 0.08


def test_chin_does_not_double() -> None:
    """An open mouth pasted on a closed one looks like the open-mouthed frame, and the other way round."""
    matrix = _matrix()
    shut, wide = _face(0), _face(8)
    frames = {0: _frame(shut, matrix), 8: _frame(wide, matrix, seed=1)}
    for source, target, before, after in ((0, 8, shut, wide), (8, 0, wide, shut)):
        generated = _region(frames[target], matrix)
        pasted = Blender(CROP).paste(frames[source], generated, matrix, before, after)
        assert psnr(pasted.frame, frames[target], pasted.mask) > 32
        assert psnr(frames[source], frames[target], pasted.mask) < 25
        assert seam_ratio(pasted.frame, frames[target], pasted.mask) < 1.15


def test_colours_are_matched_and_do_not_flicker() -> None:
    matrix, points = _matrix(), _face()
    frames = [_frame(points, matrix, seed) for seed in range(8)]
    cast = np.array([0.85, 0.95, 1.1])
    results = {}
    for colours in (False, True):
        blender = Blender(CROP, colours=colours)
        pasted = []
        for seed, frame in enumerate(frames):
            noisy = 1 + np.random.default_rng(seed).normal(0, 0.01, 3)  # colours that tremble
            region = np.clip((_region(frame, matrix) + 1) / 2 * cast * noisy, 0, 1) * 2 - 1
            pasted.append(blender.paste(frame, region, matrix, points, points))
        images = np.stack([one.frame for one in pasted])
        results[colours] = psnr(images, np.stack(frames), pasted[0].mask)
        if colours:
            assert flicker(images, pasted[0].mask) < 1.3 * flicker(np.stack(frames), pasted[0].mask)
    assert results[True] > 34
    assert results[True] > results[False] + 8


def test_colour_match_starts_anew_at_a_cut_and_after_reset() -> None:
    matrix, points = _matrix(), _face()
    bright = _frame(points, matrix)
    dark = (bright * 0.6).astype(np.uint8)
    region = _region(bright, matrix)
    fresh = Blender(CROP).paste(dark, region, matrix, points, points).frame
    blender = Blender(CROP)
    blender.paste(bright, region, matrix, points, points)
    np.testing.assert_array_equal(blender.paste(dark, region, matrix, points, points).frame, fresh)
    blender.reset()
    np.testing.assert_array_equal(blender.paste(dark, region, matrix, points, points).frame, fresh)


def test_another_mouth_is_not_mixed_with_the_sources() -> None:
    """Detail comes back on skin only: where the mouths differ, no trace of the source's is left."""
    matrix = _matrix()
    shut, wide = _face(0), _face(8)
    generated = _region(_frame(shut, matrix), matrix)
    y, x = np.rint(transform(wide[[66, 57, 62]].astype(np.float64), inverse(matrix))).astype(int).T[::-1]
    plain = Blender(CROP, grain=False).paste(_frame(wide, matrix), generated, matrix, wide, shut).frame
    grain = Blender(CROP, grain=True).paste(_frame(wide, matrix), generated, matrix, wide, shut).frame
    assert np.abs(plain[y, x].astype(int) - grain[y, x]).max() <= 1


def test_face_at_the_border_outside_and_unknown() -> None:
    points, matrix = _face(), _matrix()
    frame = _frame(points, matrix)
    region = _region(frame, matrix)
    for shift in ((-110, 0), (0, 90), (300, 0), (0, -5000)):
        moved = matrix + np.array([[0, 0, shift[0]], [0, 0, shift[1]]])
        pasted = Blender(CROP).paste(frame, region, moved, points, points)
        assert (pasted.frame[pasted.mask == 0] == frame[pasted.mask == 0]).all()
    unknown = Blender(CROP).paste(frame, region, np.full((2, 3), np.nan), points, points)
    assert (unknown.frame == frame).all()
    assert not unknown.mask.any()
    with pytest.raises(ValueError, match="generated must be"):
        Blender(CROP).paste(frame, region[1:], matrix, points, points)


def test_whole_frame_crop() -> None:
    """The paper's preset: the crop is the frame, twice the size, and all of it is generated."""
    crop = CropConfig()
    points, matrix = _face() * 2, _matrix(1.0, 0.0) * 1.28
    frame = _frame(points, matrix)
    region = warp(frame[None].astype(np.float32), matrix[None], 256)[0] / 127.5 - 1
    pasted = Blender(crop).paste(frame, region, matrix, points, points)
    assert psnr(pasted.frame, frame, pasted.mask) > 38
    eyes = np.rint(transform(points[36:48].astype(np.float64), inverse(matrix))).astype(int)
    assert (pasted.mask[eyes[:, 1], eyes[:, 0]] == 0).all()


@pytest.mark.slow
def test_faster_than_the_video() -> None:
    matrix, points = _matrix(), _face()
    frame = _frame(points, matrix)
    region, blender, threads = _region(frame, matrix), Blender(CROP), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        for _ in range(30):
            blender.paste(frame, region, matrix, points, points)
        assert (time.process_time() - start) / 30 < 1 / 60
    finally:
        torch.set_num_threads(threads)
