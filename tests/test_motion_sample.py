"""AToM window by window: lengths, chunks, seeds, seams, anchoring, look-ahead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from moditalker.config import AtomConfig, DiffusionConfig
from moditalker.diffusion.process import Diffusion
from moditalker.motion.atom import Atom
from moditalker.motion.sample import sample_motion, waited

WIDTH = 24
CONFIG = AtomConfig(
    width=32, layers=2, heads=2, feed_forward=48, frames=16, overlap=4, audio_window=3, scale=20.0
)
DIFFUSION = DiffusionConfig(sampling_steps=3, eta=0.0, clip=0.0)


def build(config: AtomConfig = CONFIG) -> Atom:
    torch.manual_seed(0)
    model = Atom(config, WIDTH).eval()
    with torch.no_grad():  # a fresh network hardly lets its input through
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2)
    return model


def speech(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2 * frames, WIDTH)).astype(np.float32)


def face() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(68, 3)).astype(np.float32)


def run(model: Atom, blocks: list[np.ndarray], **options) -> np.ndarray:
    parts = list(sample_motion(model, Diffusion(DIFFUSION), blocks, face(), **options))
    return np.concatenate(parts) if parts else np.zeros((0, 68, 3), np.float32)


@pytest.mark.parametrize("frames", [0, 1, 4, 12, 15, 16, 17, 28, 29, 100])
def test_a_frame_for_two_features(frames: int) -> None:
    motion = run(build(), [speech(frames)])
    assert motion.shape == (frames, 68, 3)
    assert motion.dtype == np.float32
    assert np.isfinite(motion).all()


@pytest.mark.parametrize("size", [1, 7, 24, 1000])
def test_blocks_do_not_matter(size: int) -> None:
    model, features = build(), speech(53)
    blocks = [features[i : i + size] for i in range(0, len(features), size)]
    np.testing.assert_array_equal(run(model, blocks), run(model, [features]))


def test_same_seed_same_landmarks() -> None:
    model, features = build(), speech(40)
    np.testing.assert_array_equal(run(model, [features], seed=3), run(model, [features], seed=3))
    assert np.abs(run(model, [features], seed=3) - run(model, [features], seed=4)).max() > 1e-4


def test_what_is_final_does_not_change() -> None:
    """A frame is final once its window's speech is there: what follows later changes nothing."""
    model, long = build(), speech(64)
    other = np.concatenate([long[: 2 * 40], speech(24, seed=5)])
    final = 12 * (1 + (40 - 16) // 12)  # frames of the windows that lie wholly in the first 40
    np.testing.assert_array_equal(run(model, [long])[:final], run(model, [other])[:final])


def test_a_window_comes_out_as_soon_as_it_is_heard() -> None:
    given = 0

    def blocks():
        nonlocal given
        for part in np.split(speech(64), 64):
            given += 1
            yield part

    first = next(sample_motion(build(), Diffusion(DIFFUSION), blocks(), face()))
    assert (len(first), given) == (12, 17)


def test_zero_residual_is_the_source_face_in_every_window() -> None:
    model = build()
    torch.nn.init.zeros_(model.out.weight)
    torch.nn.init.zeros_(model.out.bias)
    np.testing.assert_array_equal(run(model, [speech(50)]), np.broadcast_to(face(), (50, 68, 3)))


def test_seams_are_no_larger_than_other_steps() -> None:
    motion = run(build(), [np.repeat(speech(100)[::16], 16, axis=0)[:400]])
    change = np.abs(np.diff(motion, axis=0)).mean((1, 2))
    seams = np.zeros(len(change), bool)
    for start in range(12, len(motion) - 4, 12):
        seams[start - 1 : start + 4] = True
    assert change[seams].mean() < 1.3 * change[~seams].mean()


def test_guidance_and_steps_are_used() -> None:
    model, features = build(), speech(20)
    plain = run(model, [features])
    guided = Diffusion(replace(DIFFUSION, guidance=2.0))
    other = np.concatenate(list(sample_motion(model, guided, [features], face())))
    assert np.abs(other - plain).max() > 1e-4
    assert np.abs(run(model, [features], steps=1) - plain).max() > 1e-4


def test_overlap_must_leave_room() -> None:
    with pytest.raises(ValueError, match="smaller"):
        run(build(replace(CONFIG, overlap=16)), [speech(20)])


CAUSAL = replace(CONFIG, frames=12, overlap=10, first_estimate=16, estimate_layers=2, causal=True, ahead=3)


def causal() -> Atom:
    model = build(CAUSAL)
    assert model.first_estimate is not None
    with torch.no_grad():
        torch.nn.init.normal_(model.first_estimate.map.weight)
    return model


@pytest.mark.parametrize("frames", [1, 2, 5, 7, 12, 41])
@pytest.mark.parametrize("size", [1, 3, 10, 1000])
def test_causal_blocks_do_not_matter(frames: int, size: int) -> None:
    model, features = causal(), speech(frames)
    whole = run(model, [features])
    assert whole.shape == (frames, 68, 3)
    blocks = [features[i : i + size] for i in range(0, len(features), size)]
    np.testing.assert_array_equal(run(model, blocks), whole)
    assert run(model, []).shape == (0, 68, 3)


def test_a_causal_frame_hears_little_of_what_is_to_come() -> None:
    model, long = causal(), speech(60)
    whole = run(model, [long])
    for heard in (20, 31):
        other = np.concatenate([long[: 2 * heard], speech(60 - heard, seed=5)])
        same = (run(model, [other]) == whole).all((1, 2))
        free = heard - waited(CAUSAL) + 1  # frames whose speech was there
        assert same[:free].all()
        assert not same[heard:].any()


def test_a_causal_frame_comes_as_soon_as_its_speech_is_there() -> None:
    given = made = 0

    def blocks():
        nonlocal given
        for part in np.split(speech(40), 40):
            given += 1
            yield part

    for block in sample_motion(causal(), Diffusion(DIFFUSION), blocks(), face()):
        assert given == made + waited(CAUSAL) or given == 40
        made += len(block)
    assert made == 40
