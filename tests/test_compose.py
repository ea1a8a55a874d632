"""Frames put together at the source's own size: flows, the looks that are chosen, and what is left alone."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch

from moditalker.config import load
from moditalker.features.face.identity import FaceFrame
from moditalker.features.face.shape import default_model
from moditalker.geometry.align import inverse, transform
from moditalker.geometry.looks import MOST, Identity, Look, look_at
from moditalker.geometry.points import MOUTH, lip_opening, shut_mouth
from moditalker.geometry.pose import Pose, apply_pose
from moditalker.geometry.raster import warp
from moditalker.media import Frame
from moditalker.talker.layers import Layers
from moditalker.talker.targets import Target
from moditalker.video.compose import Composer, _around, _Canvas, _Lips
from moditalker.video.flow import Gap, Spline, outline_distance
from moditalker.video.interior import Interior, load_interior
from moditalker.video.match import blurred
from moditalker.video.references import Chooser, Gallery, Lender, faded

CROP = load("tiny").crop
SIDE = 300  # of the source's frames
MATRIX = np.array([[0.5, 0.02, -8.0], [-0.02, 0.5, -4.0]])  # frame -> crop
PLACES = (
    np.stack(np.mgrid[:SIDE, :SIDE][::-1], -1) @ MATRIX[:, :2].T + MATRIX[:, 2]
)  # of a frame, in the crop


def face(opening: float = 0.0) -> np.ndarray:
    """Landmarks (68, 2) of an upright face in the crop, its lips so many crop pixels apart."""
    pose = Pose(np.diag([1.0, -1.0, -1.0])[None], np.array([42.0]), np.array([[63.5, 45.0, 0.0]]))
    points = shut_mouth(apply_pose(default_model().mean[None], pose)[0])[:, :2]
    points[[67, 66, 65, 58, 57, 56, 59, 55]] += [0, opening]
    points[6:11] += [0, opening * 0.8]
    return points


def picture(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """A frame (SIDE, SIDE, 3): fine skin, red lips, dark between them."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    places = np.stack([x, y], -1) @ MATRIX[:, :2].T + MATRIX[:, 2]
    grain = np.random.default_rng(seed).normal(0, 12, (SIDE, SIDE, 1))
    for axis in (0, 1):  # of a camera: neighbours are a little alike
        grain = (np.roll(grain, 1, axis) + 2 * grain + np.roll(grain, -1, axis)) / 4
    image = np.array([190.0, 150, 130]) + grain + 0.2 * (places[..., :1] - 64)
    lips = outline_distance(places, points) < 0
    image[lips] = np.array([170.0, 80, 80]) + grain[lips]
    upper, lower = Gap.of(points).edges(places[..., 0])
    between = (
        (places[..., 1] > upper) & (places[..., 1] < lower) & (Gap.of(points).beyond(places[..., 0]) == 0)
    )
    image[between] = 30
    return image.clip(0, 255).astype(np.uint8)


def aligned(image: np.ndarray) -> np.ndarray:
    return warp(image[None], MATRIX[None], CROP.size)[0]


def look(opening: float, seconds: float = 0.0, seed: int = 1) -> Look:
    points = face(opening)
    image = picture(points, seed)
    return look_at(image, MATRIX, aligned(image), points, seconds)


def composed(own: float, wanted: float, looks: list[Look], region=None):
    image, shares = picture(face(own)), [(one, 1 / len(looks)) for one in looks]
    composer = Composer(CROP)
    result = composer.compose(image, MATRIX, aligned(image), face(own), face(wanted), shares, region=region)
    return image, result


def test_a_spline_goes_through_its_shifts_and_is_even_between_them():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (30, 2))
    affine = points @ rng.normal(size=(2, 2)) + 3
    assert Spline(points, 0.0).at(points) @ affine == pytest.approx(affine, abs=1e-3)
    between = rng.uniform(0, 100, (7, 5, 2))
    assert (Spline(points, 4.0).at(between) @ points.astype(np.float32)) == pytest.approx(between, abs=1e-2)


def test_distances_to_the_lips_have_their_sign():
    points = face(8.0)
    middle = points[MOUTH].mean(0)
    assert outline_distance(middle, points) < -3
    assert outline_distance(points[48:60], points) == pytest.approx(0, abs=1e-6)
    assert outline_distance(points[8], points) == pytest.approx(
        np.linalg.norm(points[8] - points[57]), abs=1.0
    )


def test_a_gap_is_as_wide_as_the_lips_are_apart():
    assert Gap.of(face(0.0)).open() < 0.2
    assert Gap.of(face(6.0)).open() == pytest.approx(6.0, abs=0.8)
    upper, lower = Gap.of(face(6.0)).edges(np.array([-10.0, 200.0]))
    assert lower - upper == pytest.approx(0, abs=0.3)  # beyond the corners it is shut


def test_where_nothing_moves_pixels_are_the_sources():
    image, result = composed(0.0, 6.0, [look(6.0)])
    changed = (result != image).any(-1)
    assert not changed[outline_distance(PLACES, face(), np.arange(17)) > 55].any()  # far beyond the jaw
    assert 0.01 < changed.mean() < 0.4
    rows = np.flatnonzero(changed.any(1))
    nose = inverse(MATRIX) @ [*face()[30], 1]
    assert rows[0] > nose[1]  # eyes and nose are the source's
    same, still = composed(3.0, 3.0, [look(3.0)])
    assert not (still != same).any(-1)[outline_distance(PLACES, face(3.0)) > 9].any()  # far from the lips


@pytest.mark.parametrize(("own", "wanted"), [(0.0, 7.0), (7.0, 0.0), (7.0, 3.0)])
def test_the_mouth_is_the_wanted_one(own, wanted):
    """Measured on pixels: the dark between the lips is as high as it shall be."""
    _, result = composed(own, wanted, [look(wanted + 1, seed=3)])
    x, y = inverse(MATRIX) @ [*face(wanted)[[62, 66]].mean(0), 1]
    column = result[int(y) - 30 : int(y) + 30, round(x)].astype(int).sum(1)
    dark = (column < 180).sum() * 0.5  # pixels of the crop
    assert dark == pytest.approx(wanted, abs=1.5)


def test_nothing_of_the_sources_own_mouth_reaches_the_picture():
    """The same wish over a shut and a wide open source: near the lips the same pixels."""
    one, other = (composed(own, 4.0, [look(4.0)])[1].astype(int) for own in (0.0, 9.0))
    near = outline_distance(PLACES, face(4.0)) < 2
    assert np.abs(one - other)[near].mean() < 2


def test_fine_detail_is_kept_in_the_mouth():
    _, result = composed(0.0, 6.0, [look(5.0)])
    real = picture(face(6.0), seed=4)
    around = (outline_distance(PLACES, face(6.0)) > 3) & (outline_distance(PLACES, face(6.0)) < 7)

    def detail(image: np.ndarray) -> float:
        grey = image.astype(float).mean(-1)
        return float(np.abs(grey - np.roll(grey, 1, 0))[around].mean())

    assert detail(result) == pytest.approx(detail(real), rel=0.25)


def test_light_of_a_look_becomes_the_frames():
    dark = look(5.0)
    dark = replace(dark, pixels=(dark.pixels * 0.6).astype(np.uint8), crop=(dark.crop * 0.6).astype(np.uint8))
    _, plain = composed(0.0, 5.0, [look(5.0)])
    _, lit = composed(0.0, 5.0, [dark])
    assert np.abs(plain.astype(int) - lit).mean(-1)[outline_distance(PLACES, face(5.0)) < 3].mean() < 6


def test_what_no_look_shows_is_painted():
    region = torch.zeros(3, CROP.size - CROP.region_top, CROP.size)
    region[1] = 1.0  # green
    _, result = composed(0.0, 7.0, [look(0.0)], region)
    x, y = inverse(MATRIX) @ [*face(7.0)[[62, 66]].mean(0), 1]
    red, green, _ = result[round(y), round(x)].astype(int)
    assert green > red + 60
    _, seen = composed(0.0, 7.0, [look(7.0)], region)
    assert seen[round(y), round(x)].max() < 90  # a look that shows it needs no paint


def test_a_mouth_at_the_pictures_edge_is_no_error():
    image, wide = picture(face())[:230], [(look(6.0), 1.0)]
    result = Composer(CROP).compose(image, MATRIX, aligned(image), face(), face(6.0), wide)
    assert result.shape == image.shape
    away = np.add(MATRIX, [[0, 0, 900], [0, 0, 900]])
    result = Composer(CROP).compose(image, away, aligned(image), face(), face(6.0), wide)
    assert np.array_equal(result, image)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_softness_is_the_blur_of_edges(sigma):
    sharp = np.kron(np.random.default_rng(0).integers(0, 255, (8, 9)), np.ones((20, 20)))
    fine = torch.from_numpy(sharp).float()[None].repeat_interleave(3, 0)
    soft = blurred(fine, sigma).round().byte().permute(1, 2, 0).numpy()
    assert replace(look(3.0), pixels=soft).softness == pytest.approx(sigma, rel=0.1)


def test_a_picture_of_noise_is_painted_too():
    """Nothing is sharper: its blur is none."""
    noise = np.random.default_rng(0).integers(0, 255, look(0.0).pixels.shape, np.uint8)
    sharp = replace(look(0.0), pixels=noise)
    matrix = MATRIX * 2  # of a frame with a smaller face
    image, interior = picture(face()), load_interior()
    composer = Composer(CROP, interior)
    canvas = _Canvas.of(image, matrix, *_around(face(8.0), 8.0))
    assert canvas is not None
    inside = composer._inside(face(8.0), sharp, face(), _Lips(face(8.0), canvas, 1.0), None)
    assert inside is not None
    assert torch.isfinite(inside).all()


def test_a_look_keeps_the_frames_own_pixels():
    points = face(4.0)
    image = picture(points)
    kept = look_at(image, MATRIX, aligned(image), points)
    assert kept.scale == pytest.approx(2.0, rel=0.01)
    x, y = (inverse(kept.matrix) @ [*points[57], 1]).round().astype(int)
    u, v = (inverse(MATRIX) @ [*points[57], 1]).round().astype(int)
    assert np.array_equal(kept.pixels[y - 2 : y + 3, x - 2 : x + 3], image[v - 2 : v + 3, u - 2 : u + 3])


def test_a_huge_face_is_kept_smaller():
    points = face(4.0)
    large, matrix = np.zeros((2400, 2400, 3), np.uint8), MATRIX.copy()
    matrix[:, :2] /= 8
    kept = look_at(large, matrix, large[:128, :128], points)
    assert kept.scale <= MOST


def test_a_gallery_keeps_what_is_unlike():
    gallery = Gallery([look(a) for a in (0.0, 0.05, 8.0)], CROP.size, 3)
    assert len(gallery.looks) == 2
    gallery.add(look(4.0))
    gallery.add(look(4.4))
    gallery.add(look(12.0))
    assert len(gallery.looks) == 3
    openings = sorted(one.opening for one in gallery.looks)
    assert openings[0] < 1
    assert openings[-1] > 11
    assert gallery.shows_inside


def test_looks_near_in_time_can_be_left_out():
    gallery = Gallery([look(0.0, 0.0), look(6.0, 5.0)], CROP.size, 8)
    wanted = face(6.0)
    assert gallery.costs(wanted, 2.0, 5.0, 0.0).argmin() == 1
    assert gallery.costs(wanted, 2.0, 5.0, 1.0).argmin() == 0
    assert np.isfinite(gallery.costs(wanted, 2.0, 5.0, 100.0)).all()  # without any left, all may be used


def test_the_chosen_look_changes_when_it_pays_and_fades():
    looks = [look(0.0), look(8.0)]
    gallery = Gallery(looks, CROP.size, 8)
    wishes = [face(a) for a in [0.0] * 12 + [8.0] * 12]
    wishes[5] = face(4.2)  # a moment is not worth a change
    chooser: Chooser[int] = Chooser(80.0, 8)

    def chosen():
        for number, wish in enumerate(wishes):
            yield from chooser.push(number, gallery.looks, gallery.costs(wish, 2.0, 0.0, 0.0))
        yield from chooser.finish()

    made = list(faded(chosen()))
    assert [number for number, _ in made] == list(range(24))
    shares = [sum(weight for one, weight in mixed if one is looks[1]) for _, mixed in made]
    assert shares == pytest.approx([0.0] * 11 + [0.25, 0.75] + [1.0] * 11)
    assert lip_opening(face(8.0)) > lip_opening(face(0.0))


def test_frames_near_one_that_cannot_be_trusted_lend_nothing():
    gallery = Gallery([], CROP.size, 96)
    lender = Lender(gallery, 25.0)  # every 2nd frame, 8 of calm
    for number in range(60):
        lender.offer(not 25 <= number < 30, partial(look, 0.2 * number, seconds=float(number)))
    lent = [one.seconds for one in gallery.looks]
    assert lent == [*range(0, 17, 2), *range(38, 52, 2)]


def test_grey_stays_grey():
    """What is painted into a picture without colours has none."""
    shut = look(0.0)
    grey = [np.repeat(part[..., :1], 3, -1) for part in (shut.pixels, shut.crop)]
    shut = replace(shut, pixels=grey[0], crop=grey[1])
    assert shut.grey
    assert not look(0.0).grey
    torch.manual_seed(0)
    image = np.repeat(picture(face())[..., :1], 3, -1)
    composer = Composer(CROP, Interior().eval().requires_grad_(False))
    made = composer.compose(image, MATRIX, aligned(image), face(), face(7.0), [(shut, 1.0)], face())
    assert not np.array_equal(made, image)
    assert (made.max(-1).astype(int) - made.min(-1)).max() <= 1


def test_the_painter_paints_where_no_look_shows_it():
    """Untrained, it paints something between the lips and nothing elsewhere."""
    torch.manual_seed(0)
    image = picture(face())
    made = {}
    for painter in (None, Interior().eval().requires_grad_(False)):
        composer = Composer(CROP, painter)
        made[painter is None] = composer.compose(
            image, MATRIX, aligned(image), face(), face(7.0), [(look(0.0), 1.0)], face()
        )
    changed = (made[True] != made[False]).any(-1)
    assert changed.any()
    assert not changed[outline_distance(PLACES, face(7.0)) > 1].any()


def test_nothing_is_seen_through_a_slit():
    """Lips that hardly part over a look whose lips touch: a painted line would be a dark thread."""
    region = -torch.ones(3, CROP.size - CROP.region_top, CROP.size)
    plain, painted = (composed(0.0, 0.7, [look(0.0)], one)[1] for one in (None, region))
    assert np.array_equal(plain, painted)
    open_, dark = (composed(0.0, 4.0, [look(0.0)], one)[1] for one in (None, region))
    assert (open_ != dark).any()


def test_a_look_shows_nothing_from_beyond_the_faces_edge():
    """The lips of a turned face touch its outline; behind it a look has another background."""
    image, points = picture(face(3.0)), face(3.0)
    points[:9, 0] = np.maximum(points[:9, 0], points[48, 0] - 2)  # the outline is 2 pixels beside the lips
    shown = look(3.0)
    wall = shown.pixels.copy()
    x, y = np.meshgrid(np.arange(wall.shape[1]), np.arange(wall.shape[0]))
    beyond = (np.stack([x, y], -1) @ shown.matrix[:, :2].T + shown.matrix[:, 2])[..., 0] < points[48, 0] - 2
    wall[beyond] = [0, 255, 0]
    turned = replace(shown, pixels=wall, landmarks=points.astype(np.float32))
    made = Composer(CROP).compose(image, MATRIX, aligned(image), points, points, [(turned, 1.0)])
    green = made[..., 1].astype(int) - made[..., 0]
    assert green.max() < 30


def test_a_mouth_that_comes_or_goes_turns_into_the_frames_own():
    own, wanted = face(0.0).astype(np.float32), face(6.0).astype(np.float32)
    image = picture(own)
    landmarks = transform(own[None], np.linalg.inv(np.vstack([MATRIX, [0, 0, 1]]))[None, :2])[0]
    still = FaceFrame(Frame(0, Fraction(0), Fraction(1, 25), image), landmarks, MATRIX, strength=0.25)
    target = Target(still, 0, Identity(aligned(image), own), aligned(image), own, wanted)
    there = look(6.0)
    fading = Layers(target, [(there, 1.0)]).fading(25.0)
    (first, much), (second, rest) = fading.looks
    assert (first, much, rest) == (there, 0.25, 0.75)
    assert second.opening == 0
    assert np.allclose(fading.target.wanted, own + 0.25 * (wanted - own), atol=1e-4)
    assert Layers(replace(target, face=replace(still, strength=1.0)), [(there, 1.0)]).fading(25.0).looks == [
        (there, 1.0)
    ]
