"""Fréchet distance and drift, against closed forms, scipy and numpy's own line fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from moditalker.metrics.drift import drift_per_minute
from moditalker.metrics.frechet import frechet_distance


def _features(seed: int, count: int = 200, width: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, width)) @ rng.standard_normal((width, width))


def test_frechet_distance_is_scipys() -> None:
    a, b = _features(0), _features(1, 150) + 0.7
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(b, a) == pytest.approx(expected)


@pytest.mark.parametrize("count", [4, 200])  # fewer and more samples than features
def test_frechet_distance_closed_forms(count: int) -> None:
    a = _features(2, count)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(6 * 2**2)
    scaled = a.mean(0) + 3 * (a - a.mean(0))
    assert frechet_distance(a, scaled) == pytest.approx((3 - 1) ** 2 * a.var(0, ddof=1).sum())


def test_frechet_distance_grows_with_damage() -> None:
    a, noise = _features(3), 5 * np.random.default_rng(4).standard_normal((200, 6))
    distances = [frechet_distance(a, a + size * noise) for size in (0, 0.25, 0.5, 1, 2)]
    assert (np.diff(distances) > 0).all()


@pytest.mark.parametrize(
    ("a", "b"),
    [(np.ones(4), np.ones(4)), (np.ones((1, 2)), np.ones((3, 2))), (np.ones((3, 2)), np.ones((3, 4)))],
)
def test_frechet_distance_refuses(a: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(ValueError, match="features must be"):
        frechet_distance(a, b)


def test_drift_is_the_slope_of_numpys_line() -> None:
    track = np.random.default_rng(5).standard_normal(500) + np.linspace(0, 4, 500)
    track[100:130] = np.nan
    keep = np.flatnonzero(np.isfinite(track))
    slope = np.polyfit(keep / (60 * 25), track[keep], 1)[0]
    assert drift_per_minute(track, 25) == pytest.approx(abs(slope))


def test_drift_of_planted_motion() -> None:
    minutes = np.arange(250) / (60 * 25)
    assert drift_per_minute(np.stack([3 * minutes, -4 * minutes], 1), 25) == pytest.approx(5)
    assert drift_per_minute(np.ones(250), 25) == pytest.approx(0)
    assert np.isnan(drift_per_minute(np.full(250, np.nan), 25))
    with pytest.raises(ValueError, match="fps > 0"):
        drift_per_minute(minutes, 0)
