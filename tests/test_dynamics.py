"""Smoothing takes fast motion away, keeps slow motion, brings nothing late; and lips do not cross."""

from __future__ import annotations

import numpy as np
import pytest

from moditalker.geometry.points import INNER_LOWER, INNER_UPPER
from moditalker.motion.dynamics import filtered, gaussian, uncrossed


def track(wave: np.ndarray) -> np.ndarray:
    """A face (68, 3) whose point 0 moves like the wave (S,)."""
    motion = np.zeros((len(wave), 68, 3), np.float32)
    motion[:, 0, 0] = wave
    return motion


WEIGHTS = gaussian(2.0, 6)


@pytest.mark.parametrize(("hertz", "left"), [(0.25, 1.0), (6.0, 0.01)])
def test_fast_motion_goes_and_slow_motion_stays(hertz: float, left: float) -> None:
    wave = np.sin(2 * np.pi * hertz * np.arange(200) / 25)
    out = np.concatenate(list(filtered([track(wave)], WEIGHTS)))[:, 0, 0]
    inner = slice(25, -25)
    assert np.std(out[inner]) / np.std(wave[inner]) == pytest.approx(left, abs=0.03)
    if left == 1:
        assert np.argmax(np.correlate(out[inner], wave[inner], "full")) == len(wave[inner]) - 1


@pytest.mark.parametrize("frames", [0, 1, 5, 40])
def test_any_length_and_any_blocks(frames: int) -> None:
    motion = track(np.random.default_rng(0).normal(size=frames))
    whole = list(filtered([motion], WEIGHTS))
    parts = list(filtered((motion[i : i + 3] for i in range(0, frames, 3)), WEIGHTS))
    assert len(whole) == len(parts) == frames
    if frames:
        np.testing.assert_allclose(np.concatenate(whole), np.concatenate(parts))


def test_one_weight_changes_nothing() -> None:
    motion = track(np.random.default_rng(0).normal(size=30))
    one = np.eye(1, 13, 6, dtype=np.float32)[0]
    np.testing.assert_allclose(np.concatenate(list(filtered([motion], one))), motion, atol=1e-6)


def test_crossing_lips_touch() -> None:
    crossed = np.random.default_rng(0).normal(size=(20, 68, 3)).astype(np.float32)
    met = uncrossed(crossed)
    assert (met[:, INNER_UPPER, 1] >= met[:, INNER_LOWER, 1] - 1e-6).all()
    np.testing.assert_allclose(uncrossed(met), met, atol=1e-6)
