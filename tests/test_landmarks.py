"""The 68 points: geometry against planted answers and scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from moditalker.config import CropConfig
from moditalker.errors import UserError
from moditalker.geometry.align import align, align_stream, inverse, transform
from moditalker.geometry.points import (
    JAW,
    LIP_RELATED,
    LIP_UNRELATED,
    MESH_TO_68,
    MIRROR,
    MOUTH,
    STABLE,
    STABLE_WEIGHTS,
    TEMPLATE,
    eye_distance,
    lip_opening,
    mouth_width,
)
from moditalker.geometry.pose import FLIP, Affine, apply_pose, procrustes, remove_pose
from moditalker.geometry.raster import draw, warp

CROP = CropConfig(size=128, eye_distance=42.0, eye_row=26.0)
WEIGHTS = np.zeros(68)
WEIGHTS[STABLE] = STABLE_WEIGHTS


def similarity(angle, scale, shift):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def face():
    """(68, 2): the stable points as the template has them, 60 pixels between the eyes; others anywhere."""
    points = np.random.default_rng(0).normal(size=(68, 2)) * 40
    points[STABLE] = TEMPLATE * 60
    return points


def moving(frames, seed=0):
    """(S, 68, 2) points and the (S, 2, 3) similarities that moved one face there."""
    rng = np.random.default_rng(seed)
    motion = np.cumsum(rng.normal(size=(frames, 4)), axis=0) * [0.01, 0.004, 0.8, 0.8]
    matrices = np.stack([similarity(a, np.exp(b), (150 + c, 120 + d)) for a, b, c, d in motion])
    return transform(np.broadcast_to(face(), (frames, 68, 2)), matrices), matrices


def test_index_tables_are_consistent():
    assert len(set(MESH_TO_68)) == 68
    assert MESH_TO_68.max() < 468
    assert sorted([*LIP_RELATED, *LIP_UNRELATED]) == list(range(68))
    assert list(LIP_RELATED) == [*JAW, *MOUTH]
    assert list(MIRROR[MIRROR]) == list(range(68))
    assert MIRROR[8] == 8
    assert set(MIRROR[MOUTH]) == set(MOUTH)
    mirrored = {int(s): int(MIRROR[s]) for s in STABLE}  # the template is symmetric
    index = {int(s): i for i, s in enumerate(STABLE)}
    for a, b in mirrored.items():
        assert pytest.approx(TEMPLATE[index[b]]) == TEMPLATE[index[a]] * [-1, 1]


def test_lip_measures_do_not_depend_on_size_place_or_roll():
    points = face()
    moved = transform(points[None], similarity(0.7, 3.0, (10, 20))[None])[0]
    assert lip_opening(moved) == pytest.approx(lip_opening(points))
    assert mouth_width(moved) == pytest.approx(mouth_width(points))
    assert eye_distance(moved) == pytest.approx(3 * eye_distance(points))
    opened = points.copy()
    opened[60:68] = points[48]
    opened[[61, 62, 63], 1] += [-2, -3, -4]
    opened[[67, 66, 65], 1] += [2, 3, 4]
    assert lip_opening(opened) == pytest.approx(6 / eye_distance(points))


def test_transform_and_inverse():
    rng = np.random.default_rng(1)
    matrices = np.stack([similarity(a, 0.5 + a, (a, -a)) for a in rng.random(5)])
    points = rng.normal(size=(5, 68, 3)).astype(np.float32)
    there = transform(points, matrices)
    assert there.dtype == np.float32
    assert transform(there, inverse(matrices)) == pytest.approx(points, abs=1e-5)
    assert np.allclose(there[0, :, 2], points[0, :, 2] * np.sqrt(np.linalg.det(matrices[0, :, :2])))
    assert transform(points[..., :2], matrices) == pytest.approx(there[..., :2])


def test_alignment_finds_the_planted_similarity():
    points, matrices = moving(9)
    found = align(points, replace(CROP, smoothing=0.0))
    there = transform(points, found)[:, STABLE]
    target = TEMPLATE * 42 + [63.5, 26]
    assert there == pytest.approx(np.broadcast_to(target, there.shape), abs=1e-6)
    scale = np.sqrt(np.linalg.det(found[:, :, :2]) * np.linalg.det(matrices[:, :, :2]))
    assert scale == pytest.approx(np.full(9, 42 / 60))


def test_a_flipped_frame_aligns_to_the_flipped_crop():
    points = moving(1)[0]
    flipped = points[:, MIRROR] * [-1, 1] + [299, 0]
    a = transform(points, align(points, CROP))
    b = transform(flipped, align(flipped, CROP))
    assert b[:, MIRROR] * [-1, 1] + [127, 0] == pytest.approx(a, abs=1e-6)


@pytest.mark.parametrize("frames", [0, 1, 3, 5, 40])
def test_streaming_alignment_is_the_batch_one_with_a_fixed_look_ahead(frames):
    points, _ = moving(frames) if frames else (np.zeros((0, 68, 2)), None)
    taken = 0

    def feed():
        nonlocal taken
        for frame in points:
            taken += 1
            yield frame

    streamed = []
    for matrix in align_stream(feed(), CROP):
        assert taken <= len(streamed) + 1 + 5  # ceil(3 x 1.5 frames)
        streamed.append(matrix)
    assert len(streamed) == frames
    assert np.array_equal(np.array(streamed).reshape(-1, 2, 3), align(points, CROP))
    if frames > 20:  # a frame's answer depends on its neighbourhood only
        assert np.array_equal(align(points[:20], CROP)[:15], streamed[:15])


def test_smoothing_stills_jitter_without_lag_at_any_frame_rate():
    rng = np.random.default_rng(2)
    for fps in (25.0, 60.0):
        time = np.arange(120) / fps
        steady = np.stack([similarity(0.1 * t, 1.0, (100 + 20 * t, 90)) for t in time])
        exact = transform(np.broadcast_to(face(), (120, 68, 2)), steady)
        points = exact + rng.normal(size=exact.shape) * 0.5
        smooth = transform(exact, align(points, CROP, fps))[20:-20, STABLE] - (TEMPLATE * 42 + [63.5, 26])
        rough = transform(exact, align(points, replace(CROP, smoothing=0.0), fps))[20:-20, STABLE]
        assert np.abs(smooth.mean((0, 1))).max() < 0.1  # no lag
        assert np.diff(smooth, axis=0).std() < 0.3 * np.diff(rough, axis=0).std()


def test_missing_faces_take_their_neighbours_answer_and_long_gaps_none():
    points, _ = moving(40)
    points[10:12] = np.nan
    points[20:36] = np.nan
    matrices = align(points, CROP)
    known = np.isfinite(matrices).all((1, 2))
    assert known[:25].all()
    assert not known[25:31].any()
    assert known[31:].all()
    gap = transform(points[9:10], matrices[10:11])[0, STABLE]
    assert gap == pytest.approx(TEMPLATE * 42 + [63.5, 26], abs=3)


def test_a_cut_is_not_smoothed_over():
    before, after = moving(20)[0], moving(20, seed=5)[0] + 200
    both = align(np.concatenate([before, after]), CROP)
    assert both == pytest.approx(np.concatenate([align(before, CROP), align(after, CROP)]))


def test_the_whole_frame_can_be_the_crop():
    crop = CropConfig(size=64)
    with pytest.raises(UserError, match="frame_size"):
        align(moving(1)[0], crop)
    matrix = align(moving(2)[0], crop, frame_size=(32, 48))[1]
    assert matrix[:, :2] == pytest.approx(2 * np.eye(2))
    assert transform(np.array([[[23.5, 15.5]]]), matrix[None])[0, 0] == pytest.approx([31.5, 31.5])


def test_warp_by_nothing_changes_nothing():
    frames = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    same = np.broadcast_to(np.eye(2, 3), (2, 2, 3))
    assert np.array_equal(warp(frames, same, (20, 30)), frames)
    right = same + np.array([[0, 0, 2], [0, 0, 1]])
    assert np.array_equal(warp(frames, right, (20, 30))[:, 1:, 2:], frames[:, :-1, :-2])
    assert (warp(frames, right, (20, 30), padding="zeros")[:, 0] == 0).all()
    assert np.array_equal(warp(frames, right, (20, 30))[:, 0, 2:], frames[:, 0, :-2])
    assert np.array_equal(warp(frames[..., 0], same, (20, 30)), frames[..., 0])


@pytest.mark.parametrize("scale", [3.0, 1.0, 0.9, 0.64, 0.3, 0.05])
def test_warp_puts_pixel_centres_where_transform_puts_points(scale):
    """A picture whose value is its coordinate: resampling must keep it, also where means are taken."""
    y, x = np.mgrid[0:300, 0:400].astype(np.float32)
    size = 9 if scale == 0.05 else 24
    matrix = similarity(0.3, scale, (0, 0))[None]
    matrix[0, :, 2] = size / 2 - matrix[0, :, :2] @ [200, 150]
    out = warp(np.stack([x, y], -1)[None], matrix, size)[0]
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(1, -1, 2).astype(float)
    expected = transform(grid, inverse(matrix))[0].reshape(size, size, 2)
    inside = ((expected > 25) & (expected < [375, 275])).all(-1)
    assert inside.sum() >= 20
    assert out[inside] == pytest.approx(expected[inside], abs=0.02)


def test_enlarging_is_bilinear_as_scipy_has_it():
    image = np.random.default_rng(3).random((12, 15)).astype(np.float32)
    matrix = similarity(0.4, 2.5, (3, 1))[None]
    out = warp(image[None], matrix, 20)[0]
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(1, -1, 2).astype(float)
    source = transform(grid, inverse(matrix))[0]
    expected = map_coordinates(image, source.T[::-1], order=1, mode="nearest").reshape(20, 20)
    assert out == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scale", [0.5, 0.23, 0.06])
def test_shrinking_does_not_alias(scale):
    board = np.indices((400, 400)).sum(0) % 2 * 255.0
    out = warp(board[None].astype(np.float32), similarity(0.1, scale, (2, 2))[None], 16)[0]
    assert np.abs(out[4:] - 127.5).max() < 20


def test_sharpness_does_not_jump_as_the_scale_passes_one():
    image = np.random.default_rng(4).random((64, 64)).astype(np.float32)
    a, b = (warp(image[None], similarity(0, s, (0.4, 0.4))[None], 60)[0] for s in (0.9999, 1.0001))
    assert np.abs(a - b).max() < 0.02


def test_frames_without_a_face_become_black():
    frames = np.full((2, 8, 8, 3), 9, np.uint8)
    matrices = np.stack([np.eye(2, 3), np.full((2, 3), np.nan)])
    out = warp(frames, matrices, 8)
    assert (out[0] == 9).all()
    assert (out[1] == 0).all()


def test_discs():
    image = draw(np.array([[[20.0, 10.0]], [[500.0, 500.0]]]), 32, 64, radius=3)
    assert image.shape == (2, 32, 64)
    assert image[0, 10, 20] == 1
    assert image[0, 10, 17] == pytest.approx(0.5)
    assert image[0].sum() == pytest.approx(np.pi * 9, rel=0.02)
    assert image[1].sum() == 0
    hard = draw(np.array([[[20.0, 10.0]]]), 32, 64, radius=3, antialias=False)
    assert set(np.unique(hard)) == {0, 1}
    assert draw(np.array([[[128.0, 128.0]]]), 256, 256, antialias=False)[0, 128].sum() == 7  # radius 3 at 256
    shifted = draw(np.array([[[20.2, 10.0]]]), 32, 64, radius=3)
    assert np.abs(shifted - image[:1]).max() > 0.1  # motion below a pixel is visible


def posed(shape, seed=0, frames=6):
    """Image points (S, 68, 3) of a canonical shape, and the angles (degrees) that they were turned by."""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-25, 25, (frames, 3))
    turned = Rotation.from_euler(
        "YXZ", angles * [-1, 1, 1], degrees=True
    ).as_matrix()  # x right, y down, z away
    return 50 * (shape * FLIP) @ turned.transpose(0, 2, 1) + rng.normal(size=(frames, 1, 3)) * 100, angles


def test_pose_is_recovered_and_undone():
    shape = np.random.default_rng(0).normal(size=(68, 3))
    points, angles = posed(shape)
    pose = procrustes(points, shape, WEIGHTS)
    assert pose.angles() == pytest.approx(angles, abs=1e-6)
    assert pose.scale == pytest.approx(np.full(6, 50))
    assert np.linalg.det(pose.rotation) == pytest.approx(np.ones(6))
    assert remove_pose(points, pose) == pytest.approx(np.broadcast_to(shape, (6, 68, 3)))
    assert apply_pose(shape[None], pose) == pytest.approx(points, abs=1e-4)


def test_procrustes_agrees_with_scipy():
    rng = np.random.default_rng(1)
    shape, points = rng.normal(size=(2, 68, 3))
    pose = procrustes(points[None], shape, WEIGHTS)
    w = WEIGHTS / WEIGHTS.sum()
    expected, _ = Rotation.align_vectors(points - w @ points, shape - w @ shape, weights=WEIGHTS)
    assert pose.rotation[0] == pytest.approx(expected.as_matrix(), abs=1e-6)


def test_affine_step_poses_the_difference():
    rng = np.random.default_rng(2)
    shape = rng.normal(size=(68, 3))
    points, _ = posed(shape)
    source = np.broadcast_to(shape, points.shape)
    noisy = points + rng.normal(size=points.shape)
    assert np.array_equal(Affine.fitted(source, noisy).posed(source), noisy.astype(np.float32))
    generated = source.copy()
    generated[:, LIP_RELATED] += rng.normal(size=(6, 37, 3)) * 0.1
    pose = procrustes(points, shape, WEIGHTS)
    affine = Affine.fitted(source, points)
    assert affine.posed(generated) == pytest.approx(apply_pose(generated, pose), abs=1e-3)
    one = Affine.fitted(source[:1], points).posed(generated[:1])  # one generated frame for all
    assert one == pytest.approx(apply_pose(generated[:1], pose), abs=1e-3)


def test_affine_error_is_what_no_affine_map_explains():
    rng = np.random.default_rng(4)
    shape = rng.normal(size=(1, 68, 3))
    points = shape @ rng.normal(size=(3, 3)) + rng.normal(size=3)
    assert np.abs(Affine.fitted(shape, points).error()).max() < 1e-9
    moved = points.copy()
    moved[:, 62, 1] += 5
    error = Affine.fitted(shape, moved).error()
    assert error[0, 62, 1] == pytest.approx(5)
    assert np.abs(np.delete(error[0], 62, axis=0)).max() < 1e-9
