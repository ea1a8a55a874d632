"""Frontal landmarks: exact inverse, free of head pose, lips kept; the model's own learning; BFM files."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from scipy.spatial.transform import Rotation

from moditalker.errors import UserError
from moditalker.features.face.shape import FaceModel, default_model, frontalize
from moditalker.geometry.points import MIRROR, eye_distance, lip_opening, mouth_width
from moditalker.geometry.pose import FLIP, Affine, apply_pose

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("MODITALKER_SHARED", ROOT.parent / "shared"))
MODEL = default_model()
IDENTITIES, EXPRESSIONS = MODEL.identity_basis.shape[-1], MODEL.expression_basis.shape[-1]


def head(angles):
    """Yaw, pitch, roll (S, 3) in degrees -> (S, 3, 3), for x right, y down, z away."""
    return Rotation.from_euler("YXZ", np.asarray(angles) * [-1, 1, 1], degrees=True).as_matrix()


def in_image(shapes, angles, size=60.0):
    """Canonical shapes (S, 68, 3) turned, `size` pixels between the eyes, somewhere in the picture."""
    return size * (shapes * FLIP) @ head(angles).transpose(0, 2, 1) + [180.0, 140.0, 5.0]


def talking(frames, seed=0):
    """A face that speaks: canonical shapes (S, 68, 3) and its expression coefficients."""
    rng = np.random.default_rng(seed)
    expression = rng.normal(size=(frames, EXPRESSIONS))
    return MODEL.shape(rng.normal(size=IDENTITIES), expression), expression


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


def test_the_mean_face_is_canonical():
    mean = MODEL.mean
    assert eye_distance(mean) == pytest.approx(1, abs=1e-6)
    assert mean[MIRROR] * [-1, 1, 1] == pytest.approx(mean, abs=1e-6)
    assert mean[8, 1] < mean[57, 1] < mean[33, 1] < mean[27, 1] < mean[19, 1]  # y up
    assert mean[30, 2] > mean[36, 2] > mean[0, 2]  # z towards the viewer
    assert mean[0, 0] < 0 < mean[16, 0]


def test_frontalisation_is_undone_exactly():
    rng = np.random.default_rng(1)
    points = in_image(talking(20)[0], rng.uniform(-30, 30, (20, 3))) + rng.normal(size=(20, 68, 3))
    frontal, pose = frontalize(points)
    assert frontal.dtype == np.float32
    assert frontal.shape == (20, 68, 3)
    assert apply_pose(frontal, pose) == pytest.approx(points, abs=1e-3)
    assert Affine.fitted(frontal, points).posed(frontal) == pytest.approx(points, abs=1e-3)


def test_one_frame_is_enough():
    points = in_image(talking(1)[0], [[20, -10, 5]])
    frontal, pose = frontalize(points)
    assert apply_pose(frontal, pose) == pytest.approx(points, abs=1e-3)
    assert lip_opening(frontal) == pytest.approx(lip_opening(talking(1)[0]), abs=0.03)


def test_a_turning_head_does_not_move_the_mouth():
    shape = talking(1, seed=3)[0]
    yaw = np.linspace(-35, 35, 41)
    for angles in (yaw[:, None] * [1, 0, 0], yaw[:, None] * [0.5, 0.4, 0.3]):
        frontal, pose = frontalize(in_image(np.repeat(shape, 41, axis=0), angles))
        assert np.ptp(lip_opening(frontal)) < 1e-4
        assert np.abs(frontal - frontal[20]).max() < 1e-4
        turned = pose.rotation @ pose.rotation[20].T
        expected = head(angles) @ head(angles)[20].T
        assert turned == pytest.approx(expected, abs=1e-4)


def test_lips_are_kept_whatever_the_head_does():
    shapes, _ = talking(200, seed=4)
    angles = np.random.default_rng(4).uniform(-20, 20, (200, 3))
    frontal, _ = frontalize(in_image(shapes, angles))
    assert correlation(lip_opening(frontal), lip_opening(shapes)) > 0.99
    assert correlation(mouth_width(frontal), mouth_width(shapes)) > 0.99
    assert abs(correlation(lip_opening(frontal) - lip_opening(shapes), angles[:, 0])) < 0.3


def test_expressions_are_recovered():
    shapes, expression = talking(60, seed=5)
    identity, found, _ = MODEL.fit(in_image(shapes, np.zeros((60, 3))))
    assert identity.shape == (IDENTITIES,)
    assert found.shape == (60, EXPRESSIONS)
    strongest = [correlation(found[:, k], expression[:, k]) for k in range(2)]
    assert min(strongest) > 0.9
    closed = MODEL.shape(identity, found * 0)
    assert closed.shape == (60, 68, 3)


def test_a_frame_is_judged_alone_once_the_person_is_known():
    points = in_image(talking(30, seed=6)[0], np.random.default_rng(6).uniform(-15, 15, (30, 3)))
    neutral = MODEL.neutral(points)
    frontal, pose = frontalize(points, neutral)
    assert frontal == pytest.approx(frontalize(points)[0])
    for i in (0, 7, 29):
        alone, its = frontalize(points[i : i + 1], neutral)
        assert alone[0] == pytest.approx(frontal[i], abs=1e-6)
        assert its.rotation[0] == pytest.approx(pose.rotation[i])


def test_another_mouth_in_the_same_pose():
    """The affine step: the upper face stays, the mouth becomes the generated one."""
    shapes, _ = talking(40, seed=7)
    points = in_image(shapes, np.random.default_rng(7).uniform(-15, 15, (40, 3)))
    frontal, _ = frontalize(points)
    other = frontal[::-1].copy()
    other[:, 17:48] = frontal[:, 17:48]
    posed = Affine.fitted(frontal, points).posed(other)
    assert posed[:, 17:48] == pytest.approx(points[:, 17:48], abs=1e-3)
    assert correlation(lip_opening(posed), lip_opening(other)) > 0.99


def test_saved_models_load(tmp_path):
    MODEL.save(tmp_path / "model.safetensors", {"license": "CC-BY-4.0"})
    again = FaceModel.load(tmp_path / "model.safetensors")
    points = in_image(talking(3)[0], np.zeros((3, 3)))
    assert again.frontalize(points)[0] == pytest.approx(MODEL.frontalize(points)[0], abs=1e-5)
    with pytest.raises(UserError, match="does not exist"):
        FaceModel.load(tmp_path / "none.safetensors")


def write_bfm(path, vertices=200):
    """A small stand-in: our mean face, in tenths of a unit, hidden among other vertices."""
    rng = np.random.default_rng(0)
    keys = rng.permutation(vertices)[:68]
    mean = rng.normal(size=(vertices, 3))
    mean[keys] = MODEL.mean * 0.1 + [0, 0.02, 0]
    identity, expression = (
        rng.normal(size=(vertices * 3, 80)) * 1e-3,
        rng.normal(size=(vertices * 3, 64)) * 1e-3,
    )
    arrays = {
        "meanshape": mean.reshape(1, -1),
        "idBase": identity,
        "exBase": expression,
        "keypoints": keys[None] + 1.0,
    }
    savemat(path, {**arrays, "tri": np.zeros((5, 3))})
    return keys, arrays


def test_bfm_is_read(tmp_path):
    keys, arrays = write_bfm(tmp_path / "bfm.mat")
    bfm = FaceModel.from_bfm(tmp_path / "bfm.mat")
    assert bfm.mean == pytest.approx(MODEL.mean, abs=1e-6)
    assert bfm.unit == pytest.approx(0.1)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 80)), rng.normal(size=(2, 64))
    flat = a @ arrays["idBase"].T + b @ arrays["exBase"].T
    assert bfm.displacement(a, b) * bfm.unit == pytest.approx(flat.reshape(2, -1, 3)[:, keys])
    points = in_image(bfm.shape(a[0], rng.normal(size=(10, 64))), rng.uniform(-10, 10, (10, 3)))
    frontal, pose = bfm.frontalize(points)
    assert apply_pose(frontal, pose) == pytest.approx(points, abs=1e-3)
    identity, expression, _ = bfm.fit(points)
    assert frontal == pytest.approx(bfm.shape(identity, expression), abs=1e-5)
    unshifted = FaceModel.from_bfm(tmp_path / "bfm.mat", shift=0) if keys.max() + 1 < 200 else None
    assert unshifted is None or not np.allclose(unshifted.mean, bfm.mean)


@pytest.mark.parametrize("damage", ["missing", "text", "no keypoints", "far keypoint", "wrong size"])
def test_bfm_files_that_are_something_else(tmp_path, damage):
    path = tmp_path / "bfm.mat"
    _, arrays = write_bfm(path)
    if damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("a table of numbers, but not of the kind that is wanted here " * 10)
    elif damage == "no keypoints":
        del arrays["keypoints"]
        savemat(path, arrays)
    elif damage == "far keypoint":
        savemat(path, {**arrays, "keypoints": arrays["keypoints"] + 10_000})
    else:
        savemat(path, {**arrays, "idBase": arrays["idBase"][:-1]})
    with pytest.raises(UserError, match=r"bfm\.mat"):
        FaceModel.from_bfm(path)


def builder():
    spec = importlib.util.spec_from_file_location("build_face_model", ROOT / "tools" / "build_face_model.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def explained(clips, frontal: Callable, pose: Callable, train, test):
    """R^2 of yaw, pitch, roll on other clips: ridge regression from landmarks, within clips, best penalty."""
    data = {}
    for name, points in clips.items():
        x, y = frontal(points).reshape(len(points), -1), pose(points)
        data[name] = x - x.mean(0), y - y.mean(0)
    x, y, xt, yt = (np.concatenate([data[n][k] for n in names]) for names in (train, test) for k in (0, 1))
    square, best = x.T @ x, np.full(3, -np.inf)
    for penalty in 10.0 ** np.arange(-6, 1):
        slopes = np.linalg.solve(square + penalty * np.trace(square) / 204 * np.eye(204), x.T @ y)
        best = np.maximum(best, 1 - ((yt - xt @ slopes) ** 2).sum(0) / (yt**2).sum(0))
    return best


def test_learning_takes_out_a_planted_trace_of_pose():
    """Speakers whose jaw and depth follow the head in the mesh, each in a way of their own."""
    build = builder().build
    clips, openings = {}, {}
    rng = np.random.default_rng(9)
    x, y, _ = MODEL.mean.T
    fields = np.stack([x, y, x * x, x * y, y * y])[:, :, None, None] * np.eye(3)  # smooth over the face
    fields = fields.transpose(0, 2, 1, 3).reshape(15, 204)
    common = rng.normal(size=(3, 15))
    for speaker in range(6):
        identity = rng.normal(size=IDENTITIES)
        own = 0.004 * ((common + 0.2 * rng.normal(size=(3, 15))) @ fields).reshape(3, 68, 3)
        for clip in range(3):
            turns = np.cumsum(rng.normal(size=(60, 3)), axis=0) * 0.3
            shapes = MODEL.shape(identity, 0.7 * rng.normal(size=(60, EXPRESSIONS)))
            seen = shapes + np.tensordot(turns, own, 1) + rng.normal(size=shapes.shape) * 0.001
            name = f"p{speaker}_{clip}"
            clips[name], openings[name] = in_image(seen, turns), lip_opening(shapes)
    train, test = [n for n in clips if n < "p4"], [n for n in clips if n >= "p4"]
    model = build({n: clips[n] for n in train})

    def pose(points):
        return model.frontalize(points)[1].angles()

    def rigid(points):
        frontal, pose = model.frontalize(points)
        return frontal + pose.residual

    before = explained(clips, rigid, pose, train, test)
    after = explained(clips, lambda p: model.frontalize(p)[0], pose, train, test)
    assert before.max() > 0.8
    assert after.max() < 0.05
    for name in test:
        assert correlation(lip_opening(model.frontalize(clips[name])[0]), openings[name]) > 0.95


@pytest.mark.slow
def test_real_frontal_landmarks_do_not_tell_the_pose():
    split = SHARED / "data" / "grid" / "split.json"
    if not split.exists():
        pytest.skip("the GRID clips are not at hand (MODITALKER_SHARED)")
    from moditalker.features.face.tracker import FaceTracker
    from moditalker.media import VideoReader

    names = json.loads(split.read_text())
    by_speaker: dict[str, list[str]] = {}
    for name in names["train"]:
        by_speaker.setdefault(name.split("/")[0], []).append(name)
    train = [name for clips in by_speaker.values() for name in clips[:4]]
    test = names["val"][::3]
    tracker, clips = FaceTracker(), {}
    for name in [*train, *test]:
        frames = (frame.image for frame in VideoReader(split.parent / name))
        faces = tracker.track(frames, 25.0)
        clips[name] = np.stack([face.landmarks for face in faces if face is not None])

    def rigid(points):
        frontal, pose = frontalize(points)
        return frontal + pose.residual

    def pose(points):
        return frontalize(points)[1].angles()

    before = explained(clips, rigid, pose, train, test)
    after = explained(clips, lambda p: frontalize(p)[0], pose, train, test)
    print("R^2 of yaw, pitch, roll:", before, "->", after)
    assert before[:2].min() > 0.5
    assert after.max() <= 0.05
    lips = [correlation(lip_opening(frontalize(clips[n])[0]), lip_opening(clips[n])) for n in test]
    assert np.median(lips) >= 0.99
