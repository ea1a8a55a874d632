"""Faces: detection and mesh against MediaPipe's own answers, tracking, gaps, cuts, smoothing without lag."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

from moditalker.errors import UserError
from moditalker.features.face import tracker as module
from moditalker.features.face.found import Face
from moditalker.features.face.networks import landmarks_to_matrix, load_face_network, sample
from moditalker.features.face.shots import REACH_SECONDS, changes
from moditalker.features.face.smoothing import fill_gaps, smooth
from moditalker.features.face.tracker import FaceTracker, Region, cut_out
from moditalker.geometry.points import MESH_TO_68, lip_opening
from moditalker.weights import named

Picture = NDArray[np.uint8]

# What mediapipe 0.10.21 (FaceMesh, refine_landmarks, after 6 equal frames) says of the astronaut:
# index of the 68 -> x, y, z.
ASTRONAUT = {
    0: (178.3, 100.1, 37.0), 8: (221.2, 178.2, 8.3), 16: (271.8, 106.0, 35.8), 30: (223.4, 127.1, -24.4),
    36: (194.6, 100.5, 4.1), 39: (213.2, 103.5, 0.5), 42: (236.2, 104.6, 0.2), 45: (255.5, 104.1, 3.4),
    48: (201.8, 139.2, 8.0), 54: (245.5, 140.7, 7.5), 62: (223.3, 143.5, -5.1), 66: (222.8, 150.6, -3.2),
}  # fmt: skip
IRISES = [(203.3, 100.9, 0.4), (246.8, 103.4, -0.1)]


@pytest.fixture(scope="module")
def tracker() -> FaceTracker:
    return FaceTracker()


@pytest.fixture(scope="module")
def astronaut() -> Picture:
    return np.asarray(skimage.data.astronaut())


@pytest.fixture(scope="module")
def portrait(astronaut: Picture) -> Picture:
    return astronaut[20:230, 120:330]


def resized(picture: Picture, width: int) -> Picture:
    height = round(width * picture.shape[0] / picture.shape[1])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def on_grey(pictures: list[tuple[Picture, int, int]], height: int, width: int) -> Picture:
    """Pictures at (x, y) on a grey ground with a little noise."""
    ground = np.random.default_rng(0).integers(100, 108, (height, width, 3)).astype(np.uint8)
    for picture, x, y in pictures:
        ground[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return ground


def test_mesh_equals_mediapipe(tracker: FaceTracker, astronaut: Picture) -> None:
    (alone,) = tracker.detect(astronaut)
    followed = list(tracker.track([astronaut] * 6, 25))[-1]
    assert followed is not None
    expected = np.array([*ASTRONAUT.values(), *IRISES])
    for found, near in ((alone, 1.5), (followed, 1.0)):
        points = np.concatenate([found.landmarks[list(ASTRONAUT)], found.points[[468, 473]]])
        assert np.abs(points - expected).max() < near
        assert found.points.shape == (478, 3)
        assert found.points.dtype == np.float32
        assert found.score > 0.99
        x0, y0, x1, y1 = found.box
        assert x0 < 180 < 270 < x1
        assert y0 < 75 < 175 < y1


def test_five_faces_of_many_sizes(tracker: FaceTracker, portrait: Picture) -> None:
    places = [(60, 30, 20), (150, 100, 80), (80, 270, 300), (230, 360, 20), (60, 600, 320)]  # width, x, y
    picture = on_grey([(resized(portrait, w), x, y) for w, x, y in places], 400, 700)
    faces = tracker.detect(picture)
    (reference,) = tracker.detect(portrait)
    assert len(faces) == 5
    for (width, x, y), found in zip(places, faces, strict=True):  # from left to right
        scale = width / portrait.shape[1]
        expected = (reference.centre + 0.5) * scale - 0.5 + [x, y]
        assert np.abs(found.centre - expected).max() < 0.05 * found.size
        assert found.size == pytest.approx(scale * reference.size, rel=0.1)
    for choice, index in (("largest", 3), (4, 4), ((100, 120), 1)):
        (chosen,) = tracker.track([picture], 25, choice)  # type: ignore[arg-type]
        assert chosen is not None
        assert np.abs(chosen.centre - faces[index].centre).max() < 1
    assert list(tracker.track([picture], 25, 5)) == [None]  # waits for a sixth


def test_small_faces_are_left_out_only_beside_a_large_one(
    tracker: FaceTracker, portrait: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Region] = []
    look = tracker._detections
    monkeypatch.setattr(
        tracker, "_detections", lambda image, *rest: looks.append(rest[0]) or look(image, *rest)
    )
    small = resized(portrait, 60)
    picture = on_grey([(resized(portrait, 420), 40, 60), (small, 700, 40)], 600, 900)
    everybody, count = tracker.detect(picture), len(looks)
    largest = tracker.detect(picture, small=False)
    assert len(looks) - count == 2  # the whole, by either network
    assert count > 20
    assert len(everybody) == 2
    assert len(largest) == 1
    assert np.abs(largest[0].points - everybody[0].points).max() < 0.5
    looks.clear()
    assert len(tracker.detect(on_grey([(small, 700, 40)], 600, 900), small=False)) == 1
    assert len(looks) > 20  # nobody is large, so small ones are looked for


def test_a_face_upside_down_is_seen_upside_down(tracker: FaceTracker, portrait: Picture) -> None:
    (upright,) = tracker.detect(portrait)
    (turned,) = tracker.detect(np.ascontiguousarray(portrait[::-1, ::-1]))
    side = np.array([portrait.shape[1], portrait.shape[0]]) - 1
    away = np.abs(side - turned.landmarks[:, :2] - upright.landmarks[:, :2])
    assert away.mean() < 0.02 * upright.size
    assert away.max() < 0.08 * upright.size


@pytest.mark.parametrize("top", [70, 90])
def test_a_pattern_is_not_taken_for_its_size(tracker: FaceTracker, astronaut: Picture, top: int) -> None:
    """The shuttle behind the astronaut looks a little like a face, and larger than hers."""
    (face,) = tracker.track([np.ascontiguousarray(astronaut[top:])], 25)
    assert face is not None
    assert 170 < face.centre[0] < 280


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((3, 500, 3), np.uint8),
        np.full((288, 360, 3), 255, np.uint8),
        np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8),
        skimage.data.coffee(),
    ],
    ids=["one pixel", "strip", "white", "noise", "coffee"],
)
def test_no_face(tracker: FaceTracker, picture: Picture) -> None:
    assert tracker.detect(picture) == []
    assert list(tracker.track([picture] * 2, 25)) == [None, None]


def test_read_only_and_large_picture(tracker: FaceTracker, portrait: Picture) -> None:
    large = on_grey([(resized(portrait, 900), 900, 300)], 1400, 2000)
    large.setflags(write=False)
    (found,) = tracker.detect(large, tiles=0)
    (reference,) = tracker.detect(portrait)
    scale = 900 / portrait.shape[1]
    expected = (reference.points[:, :2] + 0.5) * scale - 0.5 + [900, 300]
    assert np.abs(found.points[:, :2] - expected).mean() < 0.01 * found.size


def walk(portrait: Picture, count: int) -> tuple[list[Picture], NDArray[np.float64]]:
    """A face that moves from side to side; the frames and its offset in x."""
    offsets = np.round(60 + 40 * np.sin(np.arange(count) / 6))
    return [on_grey([(portrait, int(x), 20)], 250, 360) for x in offsets], offsets


def test_track_follows_without_lag(tracker: FaceTracker, portrait: Picture) -> None:
    frames, offsets = walk(portrait, 40)
    faces = list(tracker.track(frames, 25))
    assert len(faces) == len(frames)
    x = np.array([face.landmarks[30, 0] for face in faces if face is not None])
    assert len(x) == len(frames)
    error = x - offsets - np.median(x - offsets)
    assert np.abs(error).max() < 1.5
    assert abs(np.polyfit(np.gradient(offsets), error, 1)[0]) < 0.05  # frames of lag
    assert not any(face.cut for face in faces if face is not None)


@pytest.mark.parametrize("shift", [12, 24, 36])
def test_a_fast_face_is_seen_as_well_as_a_slow_one(
    tracker: FaceTracker, portrait: Picture, shift: int
) -> None:
    before, after = (on_grey([(portrait, x, 20)], 250, 360) for x in (60, 60 + shift))
    (face,), (there,) = tracker.detect(before), tracker.detect(after)
    found = tracker.again(after, face)
    assert found is not None
    error = np.linalg.norm(found.landmarks[:, :2] - there.landmarks[:, :2], axis=1)
    assert error.mean() < 0.01 * there.size


def test_lost_and_found(tracker: FaceTracker, portrait: Picture) -> None:
    still = on_grey([(portrait, 60, 20)], 250, 360)
    hidden = still.copy()
    hidden[40:230, 100:230] = 104  # something in front of the face
    frames = [still] * 6 + [hidden] * 4 + [still] * 6 + [hidden] * 9 + [still] * 4
    faces = list(tracker.track(frames, 25))
    missing = [i for i, face in enumerate(faces) if face is None]
    interpolated = [i for i, face in enumerate(faces) if face is not None and face.score == 0]
    assert missing == list(range(16, 25))  # 9 frames: longer than 0.2 s
    assert interpolated == [6, 7, 8, 9]
    first = faces[0]
    assert first is not None
    for face in faces:
        if face is not None:
            assert not face.cut
            assert np.abs(face.points - first.points).max() < 1.5


def test_cut_starts_a_new_track(tracker: FaceTracker, portrait: Picture) -> None:
    one = on_grey([(portrait, 20, 20)], 250, 480)
    small, large = resized(portrait, 110), resized(portrait, 240)
    two = 255 - on_grey([(255 - small, 20, 20), (255 - large, 220, 5)], 250, 480)  # another ground
    faces = list(tracker.track([one] * 8 + [two] * 5, 25))
    assert [i for i, face in enumerate(faces) if face is None or face.cut] == [8]
    before, after = faces[7], faces[8]
    assert before is not None
    assert after is not None
    assert before.centre[0] < 200 < after.centre[0]  # in the new shot the largest one was chosen


def test_who_comes_back_elsewhere_may_be_another(tracker: FaceTracker, portrait: Picture) -> None:
    second = (resized(portrait, 180), 240, 40)
    both, alone = on_grey([(portrait, 20, 20), second], 250, 440), on_grey([second], 250, 440)
    faces = list(tracker.track([both] * 4 + [alone] * 26, 25, 0))
    places = [(face.centre[0] > 230, face.cut) for face in faces if face is not None]
    assert places[:4] == [(False, False)] * 4
    assert places[4] == (True, True)
    assert set(places[5:]) == {(True, False)}


def test_keeps_to_its_face(tracker: FaceTracker, portrait: Picture) -> None:
    """The chosen face leaves the picture: the other one is not taken for it."""
    frames = []
    for shift in range(0, 240, 12):
        frame = on_grey([(resized(portrait, 180), 400, 40)], 250, 600)
        frame[20:230, : max(0, 210 - shift)] = portrait[:, shift:]
        frames.append(frame)
    faces = list(tracker.track(frames, 25, 0))
    assert faces[0] is not None
    assert faces[0].centre[0] < 200
    assert faces[-1] is None
    assert all(face is None or face.centre[0] < 200 for face in faces)


def test_look_ahead_is_fixed(tracker: FaceTracker, portrait: Picture) -> None:
    read = 0

    def frames() -> Iterator[Picture]:
        nonlocal read
        for _ in range(20):
            read += 1
            yield portrait

    ahead = [read - i for i, _ in enumerate(tracker.track(frames(), 25))]
    assert max(ahead) == 1 + round(0.08 * 25) + round(REACH_SECONDS * 25)
    assert list(tracker.track([], 25)) == []


@pytest.mark.parametrize(
    ("fps", "choose"), [(0.0, "largest"), (float("nan"), 0), (25.0, "tallest"), (25.0, -1)]
)
def test_mistakes(tracker: FaceTracker, fps: float, choose: str | int) -> None:
    with pytest.raises(UserError):
        tracker.track([], fps, choose)


def talking(count: int, noise: float) -> tuple[list[Face], NDArray[np.float32]]:
    """Made-up faces, 100 pixels wide, whose lower lip moves and whose points tremble; their steady points."""
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 100, (478, 3)).astype(np.float32)
    points = np.repeat(base[None], count, 0)
    lower = MESH_TO_68[55:60].tolist() + MESH_TO_68[65:68].tolist()
    points[:, lower, 1] += 8 * np.abs(np.sin(np.arange(count) * 0.7))[:, None].astype(np.float32)
    trembling = points + rng.normal(0, noise, points.shape).astype(np.float32)
    return [Face(p, 1.0) for p in trembling], points


def test_smoothing_takes_jitter_and_leaves_lips() -> None:
    faces, clean = talking(200, 0.25)
    smoothed = np.stack([face.points for face in smooth(faces, 2) if face is not None])
    raw = np.stack([face.points for face in faces])
    assert len(smoothed) == 200
    still = MESH_TO_68[27:48]
    assert (smoothed - clean)[:, still].std() < 0.7 * (raw - clean)[:, still].std()
    opening = [lip_opening(points[:, MESH_TO_68]) for points in (smoothed, raw)]
    truth = lip_opening(clean[:, MESH_TO_68])
    assert np.corrcoef(opening[0], truth)[0, 1] > np.corrcoef(opening[1], truth)[0, 1] + 0.005
    assert np.ptp(opening[0]) > 0.9 * np.ptp(truth)


def test_smoothing_and_gaps_respect_shots() -> None:
    faces: list[Face | None] = list(talking(12, 0.1)[0])
    faces[6] = Face(faces[6].points + 500, 1.0, cut=True)  # type: ignore[union-attr]
    faces[5] = None
    result = list(fill_gaps(faces, 3))
    assert result[5] is None  # a gap before a cut stays
    assert [face is None for face in smooth(result, 2)] == [face is None for face in result]
    for i, face in enumerate(smooth(result, 2)):
        if face is not None and face.cut:
            assert i == 6
            assert np.array_equal(face.points, result[6].points)  # type: ignore[union-attr]
    # A ramp through a short gap is a line; a longer gap, and one at the end, stay.
    a, b = faces[0], Face(faces[0].points + 6, 1.0)  # type: ignore[union-attr]
    assert a is not None
    filled = list(fill_gaps([a, None, None, b, None, None, None, None, b, None], 3))
    assert [face is None for face in filled] == [False] * 4 + [True] * 4 + [False, True]
    assert np.allclose(filled[1].points, a.points + 2, atol=1e-4)  # type: ignore[union-attr]
    assert filled[1].score == 0  # type: ignore[union-attr]


def test_cut_out_against_scipy(astronaut: Picture) -> None:
    region = Region(230.3, 120.8, 170.0, 0.3)
    result = cut_out(astronaut, region, 96)[0].numpy()
    steps = np.arange(96) / 96 - 0.5
    places = np.stack(np.meshgrid(steps, steps), -1) @ region.axes.T + [region.x, region.y]
    for channel in range(3):
        expected = map_coordinates(
            astronaut[..., channel].astype(float), [places[..., 1], places[..., 0]], order=1
        )
        assert np.abs(result[channel] - expected).max() < 0.05
    # Shrunk six times: averaged, but in its place.
    ramp = np.repeat(np.arange(240, dtype=np.uint8)[None, :, None], 240, 0).repeat(3, 2)
    shrunk = cut_out(ramp, Region(120, 120, 200), 32)[0, 0].numpy()
    assert np.abs(shrunk - (120 + (np.arange(32) / 32 - 0.5) * 200)).max() < 0.01


def test_refinement_operations_against_loops() -> None:
    rng = np.random.default_rng(1)
    landmarks = rng.uniform(5, 40, (1, 30, 3)).astype(np.float32)
    op = {
        "subset_idxs": [3, 4, 5, 9, 12], "left_rotation_idx": 3, "right_rotation_idx": 9, "output_width": 8,
        "output_height": 6, "scale_x": 1.5, "scale_y": 1.25, "target_rotation_radians": 0.0,
    }  # fmt: skip
    matrix = landmarks_to_matrix(torch.from_numpy(landmarks), op)[0].numpy()
    # The subset, taken back into the region, fills it but for the enlargement, and the chosen line is level.
    inside = (landmarks[0, [3, 4, 5, 9, 12], :2] - matrix[:2, 3]) @ np.linalg.inv(matrix[:2, :2]).T
    assert np.allclose(np.ptp(inside, axis=0), [8 / 1.5, 6 / 1.25], atol=1e-4)
    assert np.allclose((inside.min(0) + inside.max(0)) / 2, [4, 3], atol=1e-4)
    assert inside[0, 1] == pytest.approx(inside[3, 1], abs=1e-4)

    features = rng.normal(size=(1, 2, 48, 48)).astype(np.float32)
    result = sample(torch.from_numpy(features), torch.from_numpy(matrix[None]), 6, 8)[0].numpy()
    for row in range(6):
        for column in range(8):
            x, y = matrix[:2, :2] @ [column + 0.5, row + 0.5] + matrix[:2, 3] - 0.5
            expected = [map_coordinates(f, [[y], [x]], order=1)[0] for f in features[0]]
            assert np.allclose(result[:, row, column], expected, atol=1e-4)


def test_networks_are_batch_independent() -> None:
    for name in ("face-mesh", "face-detector", "face-detector-far"):
        network = load_face_network(name)
        images = torch.rand(3, 3, network.size, network.size, generator=torch.Generator().manual_seed(0))
        together, alone = network(images), network(images[1:2])
        for key, value in together.items():
            assert torch.allclose(value[1:2], alone[key], atol=1e-2, rtol=1e-4), (name, key)


def test_a_damaged_network_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(named, "ASSETS", tmp_path)
    named.find.cache_clear()
    (tmp_path / named.NAMED["face-mesh"].file).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"face_mesh.safetensors: differs from its checksum"):
        load_face_network("face-mesh")
    named.find.cache_clear()


def test_anchors() -> None:
    assert module._anchors(128, [(8, 2), (16, 6)]).shape == (896, 2)
    assert np.allclose(module._anchors(192, [(4, 1)])[49], [1.5 / 48, 1.5 / 48])


def test_shots_that_dissolve_are_no_face_and_then_another_shot(
    tracker: FaceTracker, astronaut: Picture, portrait: Picture
) -> None:
    """Every frame but those of the dissolve has its face, and the first one after it begins a shot."""
    size = (256, 256)
    one = np.asarray(Image.fromarray(astronaut).resize(size)).astype(float)
    other = np.asarray(Image.fromarray(portrait).resize(size))[:, ::-1].astype(float)
    shares = np.clip((np.arange(45) - 14) / 16, 0, 1)
    frames = [((1 - share) * one + share * other).round().astype(np.uint8) for share in shares]
    faces = list(tracker.track(frames, 25))
    mixed = (shares > 0.1) & (shares < 0.9)
    assert all((face is None) == gone for face, gone in zip(faces, mixed, strict=True) if gone)
    there = [face for face in faces if face is not None]
    assert len(there) >= len(faces) - mixed.sum() - 6
    assert [face.cut for face in there].count(True) == 1
    assert faces[-1] is not None


def test_what_moves_or_gets_brighter_is_no_dissolve() -> None:
    rng = np.random.default_rng(0)
    tiles = [Image.fromarray(255 * rng.integers(0, 2, (24, 24), np.uint8)).resize((512, 512)) for _ in "ab"]
    one, other = (np.stack(3 * [np.array(tile, float)], -1) for tile in tiles)
    times = np.arange(20)
    moving = [one[t : t + 256, 2 * t : 2 * t + 256] for t in times]
    brighter = [one[:256, :256] * (0.5 + t / 40) for t in times]
    mixed = [one[:256, :256] * (1 - t / 19) + other[:256, :256] * t / 19 for t in times]
    for frames, told in ((moving, False), (brighter, False), (mixed, True)):
        seen = [change.dissolving for change in changes([frame.astype(np.uint8) for frame in frames])]
        assert len(seen) == 20
        assert set(seen[2:]) == {told}  # the first two have none before them
    assert len(list(changes([one.astype(np.uint8)]))) == 1
