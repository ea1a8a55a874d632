"""What is measured of mouths: fine detail, colours, the outline that they are measured in."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import color, data, draw

from moditalker.geometry.points import lip_opening
from moditalker.metrics.mouth_colour import ciede2000, colour_distance, lab, mouth_colours
from moditalker.metrics.mouth_detail import detail_ratio, fine_detail, gaussian
from moditalker.metrics.polygon import outlined


def face(
    eyes: float, opening: float = 0.2, at: tuple[float, float] = (0.5, 0.62), side: int = 240
) -> np.ndarray:
    """Landmarks (68, 3) whose eyes are so many pixels apart, with an oval mouth as wide as that."""
    points = np.zeros((68, 3))
    x, y = at[0] * side, at[1] * side
    points[36:42, :2], points[42:48, :2] = (x - eyes / 2, y - eyes), (x + eyes / 2, y - eyes)
    for first, count, width, height in ((48, 12, 1.0, 0.4 + opening), (60, 8, 0.7, opening)):
        turn = np.pi + 2 * np.pi * np.arange(count) / count
        points[first : first + count, 0] = x + eyes * width / 2 * np.cos(turn)
        points[first : first + count, 1] = y + eyes * height / 2 * np.sin(turn)
    return points


def film(picture: np.ndarray, count: int = 4) -> np.ndarray:
    return np.repeat(np.clip(picture, 0, 255).round().astype(np.uint8)[None], count, axis=0)


@pytest.mark.parametrize("scale", [0.9, 1.3])
def test_an_outline_holds_what_scikit_image_says(scale: float) -> None:
    outline = np.array([[12.3, 8.1], [40.2, 5.5], [47.7, 30.2], [30.1, 20.4], [9.5, 33.3]])
    box, inside = outlined(outline, (36, 50), scale)
    middle = outline.mean(0)
    grown = middle + scale * (outline - middle)
    expected = draw.polygon2mask((36, 50), grown[:, ::-1])
    whole = np.zeros((36, 50), bool)
    whole[box] = inside
    assert np.array_equal(whole, expected)
    assert not outlined(outline + 200, (36, 50))[1].any()
    assert outlined(np.full((12, 2), np.nan), (36, 50))[1].size == 0


def test_the_blur_is_scipys() -> None:
    picture = data.camera()[100:180, 200:300].astype(float)
    ours, theirs = gaussian(picture, 1.7), gaussian_filter(picture, 1.7, mode="reflect", radius=7)
    np.testing.assert_allclose(ours, theirs, atol=1e-8)


@pytest.mark.parametrize("eyes", [30.0, 60.0, 120.0])
def test_a_soft_mouth_has_less_detail_and_a_sharp_one_more(eyes: float) -> None:
    picture = data.astronaut()[100:340, 200:440].astype(float)
    points = np.stack([face(eyes)] * 4)
    real = fine_detail(film(picture), points)
    soft = picture
    ratios = [detail_ratio(real, real)]
    for sigma in (0.5, 1.0, 2.0):
        unit = max(eyes / 42, 1) * sigma
        soft = gaussian_filter(picture, (unit, unit, 0))
        ratios.append(detail_ratio(fine_detail(film(soft), points), real))
    assert ratios[0] == 1
    assert ratios[0] > ratios[1] > ratios[2] > ratios[3]
    assert ratios[2] < 0.6
    sharp = picture + (picture - gaussian_filter(picture, (1, 1, 0)))
    assert detail_ratio(fine_detail(film(sharp), points), real) > 1.2


def test_detail_is_what_a_crop_of_128_pixels_cannot_hold() -> None:
    """Waves as long as so many of the crop's pixels: the shorter, the more of one counts, at any size of
    face.
    """
    for eyes in (84.0, 168.0):
        unit, shares = eyes / 42, []
        for length in (2, 4, 8):
            wave = 128 + 40 * np.sin(2 * np.pi * np.arange(480) / (length * unit))
            picture = np.repeat(np.tile(wave, (480, 1))[..., None], 3, axis=2)
            shares.append(fine_detail(picture[None], face(eyes, side=480)[None])[0] / (40 / math.sqrt(2)))
        assert shares == pytest.approx([0.71, 0.27, 0.07], abs=0.04)


def test_detail_elsewhere_does_not_count_and_lost_faces_are_left_out() -> None:
    rng = np.random.default_rng(0)
    picture = np.full((240, 240, 3), 120.0)
    points = np.stack([face(60.0)] * 3)
    noisy = picture + rng.normal(0, 20, picture.shape)
    box, inside = outlined(points[0, 48:60, :2], (240, 240), 1.6)
    calm = noisy.copy()
    calm[box][inside] = 120
    assert fine_detail(film(noisy, 3), points)[0] > 5
    assert fine_detail(film(calm, 3), points)[0] < 0.1
    lost = points.copy()
    lost[1] = np.nan
    track = fine_detail(film(noisy, 3), lost)
    assert np.isnan(track).tolist() == [False, True, False]
    assert detail_ratio(track, track) == 1
    assert math.isnan(detail_ratio(track, np.full(3, np.nan)))
    assert math.isnan(
        detail_ratio(track, fine_detail(film(picture, 3), points))
    )  # nothing to hold it against
    with pytest.raises(ValueError, match="landmarks are needed"):
        fine_detail(film(picture), points)


def test_lab_and_the_colour_difference_are_scikit_images() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 256, (2, 500, 3))
    b[:50] = a[:50, :1]  # greys
    a[:20] = a[:20, :1]
    ours = lab(a), lab(b)
    theirs = color.rgb2lab(a.astype(np.uint8)), color.rgb2lab(b.astype(np.uint8))
    np.testing.assert_allclose(ours, theirs, atol=0.01)
    np.testing.assert_allclose(ciede2000(*ours), color.deltaE_ciede2000(*ours), atol=1e-6)
    assert ciede2000([50, 2.6772, -79.7751], [50, 0, -82.7485]) == pytest.approx(2.0425, abs=1e-4)  # Sharma's


def speaking(openings: list[float], inside: tuple[int, int, int], teeth: tuple[int, int, int]):
    """Frames of a mouth with a row of teeth above, its landmarks, its openings."""
    frames, points = [], []
    for opening in openings:
        one = face(80.0, opening)
        frame = np.full((240, 240, 3), (190, 140, 120), np.uint8)
        box, between = outlined(one[60:68, :2], (240, 240))
        part = frame[box]
        part[between] = inside
        upper = between & (np.arange(len(between)) < 0.5 * len(between))[:, None]
        part[upper] = teeth
        frames.append(frame)
        points.append(one)
    return np.stack(frames), np.stack(points), lip_opening(np.stack(points))


def test_grey_teeth_are_told_from_white_ones() -> None:
    openings = [0.0, 0.1, 0.2, 0.3, 0.4, 0.3, 0.2, 0.1]
    real, points, opening = speaking(openings, (60, 20, 20), (225, 215, 200))
    own = mouth_colours(real, points)
    assert np.isnan(own[0]).all()  # shut
    assert colour_distance(own[:, 0], opening, own[:, 0], opening) < 2
    for teeth, least, most in (
        ((225, 215, 200), 0, 1.5),
        ((200, 190, 178), 4, 12),
        ((150, 150, 150), 15, 40),
    ):
        made = mouth_colours(speaking(openings, (60, 20, 20), teeth)[0], points)
        assert least <= colour_distance(made[:, 1], opening, own[:, 1], opening) <= most
    dark = mouth_colours(speaking(openings, (20, 10, 10), (225, 215, 200))[0], points)
    assert colour_distance(dark[:, 0], opening, own[:, 0], opening) > 3


def test_mouths_are_held_against_those_that_are_as_far_open() -> None:
    colours = np.array([[20.0, 5, 5], [40, 5, 5], [60, 5, 5]])
    opening = np.array([0.1, 0.2, 0.4])
    assert colour_distance(colours, opening, colours, opening) == 0
    assert colour_distance(colours[::-1], opening, colours, opening) > 10
    assert math.isnan(colour_distance(colours, opening, colours[:1], np.array([0.8])))
    assert math.isnan(colour_distance(colours, np.full(3, 0.01), colours, opening))  # none is open
    with pytest.raises(ValueError, match="each opening"):
        colour_distance(colours, opening[:2], colours, opening)
