"""Fast motion grows, slow motion stays, nothing comes late, and lips do not cross."""

from __future__ import annotations

import numpy as np
import pytest

from moditalker.landmarks import INNER_LOWER, INNER_UPPER
from moditalker.motion.dynamics import sharpen, uncrossed


def track(wave: np.ndarray) -> np.ndarray:
    """A face (68, 3) whose point 0 moves like the wave (S,)."""
    motion = np.zeros((len(wave), 68, 3), np.float32)
    motion[:, 0, 0] = wave
    return motion


@pytest.mark.parametrize(("hertz", "growth"), [(0.25, 1.0), (6.0, 1.5)])
def test_the_fast_part_grows(hertz: float, growth: float) -> None:
    wave = np.sin(2 * np.pi * hertz * np.arange(200) / 25)
    out = np.concatenate(list(sharpen([track(wave)], 0.5)))[:, 0, 0]
    inner = slice(25, -25)
    assert np.std(out[inner]) / np.std(wave[inner]) == pytest.approx(growth, abs=0.05)
    assert np.argmax(np.correlate(out[inner], wave[inner], "full")) == len(wave[inner]) - 1


@pytest.mark.parametrize("frames", [0, 1, 5, 40])
def test_any_length_and_any_blocks(frames: int) -> None:
    motion = track(np.random.default_rng(0).normal(size=frames))
    whole = list(sharpen([motion], 0.3))
    parts = list(sharpen((motion[i : i + 3] for i in range(0, frames, 3)), 0.3))
    assert len(whole) == len(parts) == frames
    if frames:
        np.testing.assert_allclose(np.concatenate(whole), np.concatenate(parts))


def test_no_gain_changes_nothing() -> None:
    motion = track(np.random.default_rng(0).normal(size=30))
    np.testing.assert_allclose(np.concatenate(list(sharpen([motion], 0.0))), motion, atol=1e-6)


def test_crossing_lips_touch() -> None:
    motion = np.zeros((60, 68, 3), np.float32)
    motion[:, INNER_UPPER, 1] = (np.sin(np.arange(60)) ** 2)[:, None]
    out = np.concatenate(list(sharpen([motion], 1.0)))
    assert (out[:, INNER_UPPER, 1] >= out[:, INNER_LOWER, 1] - 1e-6).all()
    assert (motion[:, INNER_UPPER, 1] < out[:, INNER_UPPER, 1]).any()
    crossed = np.random.default_rng(0).normal(size=(20, 68, 3)).astype(np.float32)
    met = uncrossed(crossed)
    assert (met[:, INNER_UPPER, 1] >= met[:, INNER_LOWER, 1] - 1e-6).all()
    np.testing.assert_allclose(uncrossed(met), met, atol=1e-6)
