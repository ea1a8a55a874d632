"""The measuring code, against closed forms, scipy and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from skimage import data, metrics

from moditalker.metrics import lips
from moditalker.metrics.background import background_difference
from moditalker.metrics.cpbd import cpbd
from moditalker.metrics.flicker import flicker
from moditalker.metrics.head_motion import rotation_error
from moditalker.metrics.leakage import partial_correlation
from moditalker.metrics.lmd import landmark_distance
from moditalker.metrics.psnr import psnr
from moditalker.metrics.seam import seam_ratio
from moditalker.metrics.silence import stillness
from moditalker.metrics.ssim import ssim


def _speech(seed: int, frames: int = 300) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(frames + 8)
    return np.convolve(noise, np.ones(9) / 9, "valid")


def test_correlation_is_numpys_and_leaves_out_missing_frames() -> None:
    a, b = _speech(0), _speech(0) + 0.5 * _speech(1)
    assert lips.correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    a[10:20] = np.nan
    keep = np.isfinite(a)
    assert lips.correlation(a, b) == pytest.approx(np.corrcoef(a[keep], b[keep])[0, 1])
    assert lips.correlation(np.ones(50), b[:50]) == 0.0
    with pytest.raises(ValueError, match="one length"):
        lips.correlation(a, b[:-1])


def test_of_too_few_frames_nothing_is_told() -> None:
    few = np.full(20, np.nan)
    few[[4, 9]] = 0.1, 0.3
    full = _speech(0)[:20]
    assert math.isnan(lips.correlation(few, full))
    assert all(map(math.isnan, lips.best_lag(few, full)))
    assert all(map(math.isnan, lips.best_lag(full[:2], full[:2])))
    few[14] = 0.2
    assert math.isnan(partial_correlation(few, full, full))
    assert lips.correlation(few, full) == pytest.approx(np.corrcoef(few[[4, 9, 14]], full[[4, 9, 14]])[0, 1])
    lag, score = lips.best_lag(few, np.roll(few, 1))  # other lags have too few frames in common
    assert (lag, score) == (-1, pytest.approx(1))


@pytest.mark.parametrize("lag", [-3, 0, 4])
def test_best_lag_finds_a_shift_and_its_sign(lag: int) -> None:
    track = _speech(2, 340)
    generated, reference = track[20 - lag : 320 - lag], track[20:320]
    found, score = lips.best_lag(generated, reference)
    assert found == lag
    assert score == pytest.approx(1)


def test_partial_correlation_sees_leakage_and_only_leakage() -> None:
    audio, face = _speech(3, 4000), _speech(4, 4000)
    face = face + 0.5 * audio  # two sentences share a rhythm
    clean = audio + 0.3 * _speech(5, 4000)
    assert abs(partial_correlation(clean, face, audio)) < 0.1 < lips.correlation(clean, face)
    assert partial_correlation(clean + 0.5 * face, face, audio) > 0.5
    # the closed form for one given variable
    ab, az, bz = (np.corrcoef(x, y)[0, 1] for x, y in [(clean, face), (clean, audio), (face, audio)])
    expected = (ab - az * bz) / math.sqrt((1 - az**2) * (1 - bz**2))
    assert partial_correlation(clean, face, audio) == pytest.approx(expected)
    assert partial_correlation(2 * audio + 1, face, audio) == 0.0


def test_amplitude_and_stillness() -> None:
    track = _speech(6)
    assert lips.amplitude_ratio(0.4 * track + 3, track) == pytest.approx(0.4)
    low, high = np.percentile(track, [5, 95])
    silent = np.linspace(0, 0.1 * (high - low), 75)
    assert stillness(silent, track) == pytest.approx(0.1)
    assert stillness(np.zeros(75), track) == 0


def test_landmark_distance_is_the_mean_over_points() -> None:
    points = np.random.default_rng(0).random((5, 20, 2))
    assert landmark_distance(points + np.array([3, 4]), points) == pytest.approx(5)
    with pytest.raises(ValueError, match="one shape"):
        landmark_distance(points, points[:4])


def test_psnr_counts_only_the_mask() -> None:
    a = np.full((2, 8, 8, 3), 100, np.uint8)
    b = a.copy()
    b[:, :4] += 10
    mask = np.zeros((8, 8))
    mask[:4] = 0.7
    assert psnr(b, a, mask) == pytest.approx(20 * math.log10(25.5))
    assert psnr(b, a) == pytest.approx(20 * math.log10(25.5) + 10 * math.log10(2))
    assert psnr(b, a, 1 - mask) == math.inf
    assert math.isnan(psnr(b, a, np.zeros((8, 8))))


def test_psnr_and_ssim_agree_with_scikit_image() -> None:
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    b = np.clip(a + rng.normal(0, 12, a.shape), 0, 255).astype(np.uint8)
    assert psnr(a, b) == pytest.approx(metrics.peak_signal_noise_ratio(a, b, data_range=255))
    inner = np.zeros((40, 50), bool)
    inner[5:-5, 5:-5] = True  # scikit-image leaves the window's radius out
    expected = metrics.structural_similarity(
        a, b, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert ssim(a, b, inner) == pytest.approx(expected, abs=1e-6)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(np.stack([a, a]), np.stack([b, b]), inner) == pytest.approx(expected, abs=1e-6)


def test_seam_ratio_sees_a_step_and_not_a_ramp() -> None:
    rng = np.random.default_rng(2)
    source = rng.normal(120, 2, (64, 64, 3))
    hard = np.zeros((64, 64))
    hard[16:48, 16:48] = 1
    assert seam_ratio(source, source, hard) == pytest.approx(1)
    assert seam_ratio(source + 15 * hard[..., None], source, hard) > 3
    distance = np.hypot(*np.mgrid[-32:32, -32:32])
    soft = np.clip((28 - distance) / 20, 0, 1)
    assert seam_ratio(source + 15 * soft[..., None], source, soft) < 1.3


def test_flicker_ignores_steady_change() -> None:
    steady = np.broadcast_to(np.arange(10.0)[:, None, None, None] * 5, (10, 4, 4, 3))
    assert flicker(steady) == pytest.approx(0)
    quiver = np.zeros((10, 4, 4, 3))
    quiver[::2] = 2
    assert flicker(quiver) == pytest.approx(4)
    with pytest.raises(ValueError, match="at least 3 frames"):
        flicker(quiver[:2])


def test_background_is_what_lies_outside_the_soft_mask() -> None:
    source = np.random.default_rng(3).integers(0, 200, (4, 20, 30, 3)).astype(np.uint8)
    mask = np.zeros((4, 20, 30))
    mask[:, 5:10, 5:10], mask[:, 10:12, 5:10] = 1, 0.3  # the second is the border, which may change
    changed = source.copy()
    changed[:, 5:12, 5:10] += 40
    assert background_difference(changed, source, mask) == 0
    assert background_difference(source + np.uint8(3), source, mask) == pytest.approx(3)
    assert math.isnan(background_difference(source, source, np.ones((4, 20, 30))))


@pytest.mark.parametrize("degrees", [0, 1e-4, 0.5, 30, 179])
def test_rotation_error_is_scipys_angle(degrees: float) -> None:
    rng = np.random.default_rng(4)
    start = Rotation.random(6, random_state=rng)
    axes = rng.standard_normal((6, 3))
    turn = Rotation.from_rotvec(np.radians(degrees) * axes / np.linalg.norm(axes, axis=1, keepdims=True))
    a, b = start.as_matrix(), (turn * start).as_matrix()
    assert rotation_error(a, b) == pytest.approx(np.degrees(turn.magnitude()).mean(), rel=1e-6, abs=1e-9)
    a[2] = np.nan
    assert rotation_error(a, b) == pytest.approx(degrees, rel=1e-6, abs=1e-9)
    assert math.isnan(rotation_error(a[2:3], b[2:3]))
    with pytest.raises(ValueError, match="rotations"):
        rotation_error(a, b[:3])


@pytest.mark.parametrize("picture", ["astronaut", "chelsea", "coffee"])
def test_cpbd_falls_with_blur_from_sharp_to_nothing(picture: str) -> None:
    image = getattr(data, picture)().astype(float)
    scores = [cpbd(gaussian_filter(image, (sigma, sigma, 0))) for sigma in (0, 0.5, 1, 2, 4)]
    assert scores[0] > 0.25
    assert (np.diff(scores) <= 0).all()
    assert scores[0] > scores[1] > scores[2] > scores[3]
    assert scores[-1] < 0.02  # "all blurred" [Narvekar & Karam 2011, Fig. 6]
    assert cpbd(np.stack([image, gaussian_filter(image, (4, 4, 0))])) == pytest.approx(
        (scores[0] + scores[-1]) / 2
    )


def test_cpbd_measures_the_width_of_planted_edges() -> None:
    """Ramps of known width: up to 5 pixels at low contrast, and 3 at high, blur is not seen (0.63)."""

    def ramps(width: int, low: float, high: float) -> np.ndarray:
        row = np.interp(np.arange(64), [16, 16 + width, 40, 40 + width], [low, high, high, low])
        return np.repeat(np.tile(row, (64, 1))[..., None], 3, axis=2)

    for width in range(1, 9):
        assert cpbd(ramps(width, 100, 130)) == (width <= 5)
        assert cpbd(ramps(width, 20, 220)) == (width <= 3)
    assert math.isnan(cpbd(np.full((64, 64, 3), 7.0)))
    with pytest.raises(ValueError, match="64x64"):
        cpbd(np.zeros((63, 64, 3)))
