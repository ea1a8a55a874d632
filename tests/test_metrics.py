"""The measuring code, against closed forms and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest

from moditalker.metrics import image, lips


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
    assert abs(lips.partial_correlation(clean, face, audio)) < 0.1 < lips.correlation(clean, face)
    assert lips.partial_correlation(clean + 0.5 * face, face, audio) > 0.5
    # the closed form for one given variable
    ab, az, bz = (np.corrcoef(x, y)[0, 1] for x, y in [(clean, face), (clean, audio), (face, audio)])
    expected = (ab - az * bz) / math.sqrt((1 - az**2) * (1 - bz**2))
    assert lips.partial_correlation(clean, face, audio) == pytest.approx(expected)
    assert lips.partial_correlation(2 * audio + 1, face, audio) == 0.0


def test_amplitude_and_stillness() -> None:
    track = _speech(6)
    assert lips.amplitude_ratio(0.4 * track + 3, track) == pytest.approx(0.4)
    low, high = np.percentile(track, [5, 95])
    silent = np.linspace(0, 0.1 * (high - low), 75)
    assert lips.stillness(silent, track) == pytest.approx(0.1)
    assert lips.stillness(np.zeros(75), track) == 0


def test_landmark_distance_is_the_mean_over_points() -> None:
    points = np.random.default_rng(0).random((5, 20, 2))
    assert lips.landmark_distance(points + np.array([3, 4]), points) == pytest.approx(5)
    with pytest.raises(ValueError, match="one shape"):
        lips.landmark_distance(points, points[:4])


def test_psnr_counts_only_the_mask() -> None:
    a = np.full((2, 8, 8, 3), 100, np.uint8)
    b = a.copy()
    b[:, :4] += 10
    mask = np.zeros((8, 8))
    mask[:4] = 0.7
    assert image.psnr(b, a, mask) == pytest.approx(20 * math.log10(25.5))
    assert image.psnr(b, a) == pytest.approx(20 * math.log10(25.5) + 10 * math.log10(2))
    assert image.psnr(b, a, 1 - mask) == math.inf
    assert math.isnan(image.psnr(b, a, np.zeros((8, 8))))


def test_psnr_and_ssim_agree_with_scikit_image() -> None:
    reference = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    b = np.clip(a + rng.normal(0, 12, a.shape), 0, 255).astype(np.uint8)
    assert image.psnr(a, b) == pytest.approx(reference.peak_signal_noise_ratio(a, b, data_range=255))
    inner = np.zeros((40, 50), bool)
    inner[5:-5, 5:-5] = True  # scikit-image leaves the window's radius out
    expected = reference.structural_similarity(
        a, b, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert image.ssim(a, b, inner) == pytest.approx(expected, abs=1e-6)
    assert image.ssim(a, a) == pytest.approx(1)
    assert image.ssim(np.stack([a, a]), np.stack([b, b]), inner) == pytest.approx(expected, abs=1e-6)


def test_seam_ratio_sees_a_step_and_not_a_ramp() -> None:
    rng = np.random.default_rng(2)
    source = rng.normal(120, 2, (64, 64, 3))
    hard = np.zeros((64, 64))
    hard[16:48, 16:48] = 1
    assert image.seam_ratio(source, source, hard) == pytest.approx(1)
    assert image.seam_ratio(source + 15 * hard[..., None], source, hard) > 3
    distance = np.hypot(*np.mgrid[-32:32, -32:32])
    soft = np.clip((28 - distance) / 20, 0, 1)
    assert image.seam_ratio(source + 15 * soft[..., None], source, soft) < 1.3


def test_flicker_ignores_steady_change() -> None:
    steady = np.broadcast_to(np.arange(10.0)[:, None, None, None] * 5, (10, 4, 4, 3))
    assert image.flicker(steady) == pytest.approx(0)
    quiver = np.zeros((10, 4, 4, 3))
    quiver[::2] = 2
    assert image.flicker(quiver) == pytest.approx(4)
    with pytest.raises(ValueError, match="at least 3 frames"):
        image.flicker(quiver[:2])


def test_compare_and_leakage_on_a_moving_mouth() -> None:
    """A drawn face whose mouth follows one track or another; landmarks are given, nothing is detected."""
    from moditalker.evaluate import Observed, compare, leakage, summary
    from moditalker.landmarks import lip_opening

    def clip(track: np.ndarray) -> Observed:
        landmarks = np.zeros((len(track), 68, 3), np.float32)
        angle = np.linspace(np.pi, 0, 17)
        landmarks[:, :17, 0], landmarks[:, :17, 1] = 60 + 40 * np.cos(angle), 50 + 50 * np.sin(angle)
        landmarks[:, 27:36, 0], landmarks[:, 27:36, 1] = 60, np.linspace(42, 65, 9)
        landmarks[:, 36:42, :2], landmarks[:, 42:48, :2] = (42, 40), (78, 40)
        landmarks[:, 36, 0] -= 6
        landmarks[:, 45, 0] += 6
        for start, count in ((48, 12), (60, 8)):
            turn = np.linspace(np.pi, 3 * np.pi, count, endpoint=False)
            landmarks[:, start : start + count, 0] = 60 + 12 * np.cos(turn)
            landmarks[:, start : start + count, 1] = 77 + np.sin(turn) * (2 + track[:, None])
        frames = np.full((len(track), 120, 120, 3), 150, np.uint8)
        frames += np.random.default_rng(0).integers(0, 4, (120, 120, 3)).astype(np.uint8)
        y, x = np.mgrid[:120, :120]
        for frame, size in zip(frames, track, strict=True):
            frame[((x - 60) / 12) ** 2 + ((y - 77) / (2 + size)) ** 2 < 1] = (60, 20, 20)
        return Observed(frames, 25.0, landmarks)

    face, audio = (clip(2 + np.clip(2 * _speech(seed, 24), -2, 4)) for seed in (7, 8))
    same = compare(face, face)
    assert same["lip_correlation"] == pytest.approx(1)
    assert same["lip_lag"] == same["mouth_distance"] == 0
    assert same["psnr"] == math.inf
    assert same["seam"] == same["flicker"] == same["ssim"] == pytest.approx(1)
    assert 10 < same["first_psnr"] < 40
    other = compare(face, audio)
    assert other["lip_correlation"] < 0.6
    assert other["psnr"] < 40
    assert leakage(audio, face, audio)["audio_correlation"] == pytest.approx(1)
    assert leakage(face, face, audio)["leak"] == pytest.approx(1)
    assert summary([same, other])["frames"] == 24
    assert np.ptp(lip_opening(face.landmarks)) > 0.05
