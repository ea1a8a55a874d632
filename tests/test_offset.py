"""The offset of lips and sound: known shifts are found, and what cannot be known is left alone."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from standins import SHARED, needs_grid

from moditalker.config import load
from moditalker.data.shards import open_dataset
from moditalker.data.videos import Job
from moditalker.data.worker import Worker
from moditalker.features.face.shape import frontalize
from moditalker.features.speech.encoders import FRAME
from moditalker.geometry.points import lip_opening
from moditalker.media import AudioReader
from moditalker.metrics.offset import MOST, Lips, OffsetMeter, tracks
from moditalker.weights.named import ASSETS, MODELS

needs_weights = pytest.mark.skipif(
    not (MODELS / "tiny" / "atom.safetensors").is_file(), reason="this checkout has no weights"
)


def wander(length: int, seed: int) -> np.ndarray:
    """Two tracks (2, length) that move as lips do: noise without its fastest part."""
    noise = np.random.default_rng(seed).normal(size=(2, length + 8))
    return np.stack([np.convolve(row, np.hanning(9), "valid") for row in noise])


@pytest.mark.parametrize("shift", [-12, -5, -1, 0, 3, 12])
def test_a_known_shift_is_found(shift: int) -> None:
    heard = wander(200 + 4 * MOST, 0)
    seen = heard[:, 2 * MOST : 2 * MOST + 200] + 0.3 * wander(200, 1)
    meter = OffsetMeter()
    start = MOST - shift
    meter.add(heard[:, start : start + 200 + 2 * MOST], seen)
    assert meter.offset == shift
    assert meter.sure
    assert meter.correction == (shift if abs(shift) > 1 else 0)


def test_what_does_not_fit_is_not_corrected() -> None:
    for seed in range(10):
        meter = OffsetMeter()
        assert meter.confidence == 0
        meter.add(wander(250 + 2 * MOST, seed), wander(250, 100 + seed))
        assert meter.correction == 0
    short = OffsetMeter()
    short.add(wander(40 + 2 * MOST, 3), wander(40 + 2 * MOST, 3)[:, 2 * MOST :])
    assert short.correction == 0


def test_stretches_add_up() -> None:
    meter = OffsetMeter()
    for seed in range(3):
        heard = wander(50 + 2 * MOST, seed)
        meter.add(heard, heard[:, MOST + 4 : MOST + 54])
        assert meter.sure == (seed > 0)
    assert meter.offset == 4
    assert meter.frames == 150


@needs_weights
@pytest.mark.parametrize("shift", [-7, 4])
def test_the_motion_of_a_sound_tells_its_time(shift: int) -> None:
    sound = AudioReader(ASSETS / "demo_speech.flac").read()
    sound = np.pad(sound, (20 * FRAME, 20 * FRAME))
    frames = len(sound) // FRAME - 40
    face = np.asarray(load_face())
    lips = Lips()
    seen = lips(sound[20 * FRAME : (20 + frames) * FRAME], face)
    start = (20 - MOST - shift) * FRAME
    meter = OffsetMeter()
    meter.add(lips(sound[start : start + (frames + 2 * MOST) * FRAME], face), seen)
    assert abs(meter.offset - shift) <= 1
    assert meter.sure


def load_face() -> np.ndarray:
    """A face of the face model at rest."""
    from moditalker.features.face.shape import default_model

    return default_model().mean.astype(np.float32)


@needs_weights
@needs_grid
@pytest.mark.parametrize("shift", [-6, 5])
def test_prepare_corrects_a_real_clip(shift: int, tmp_path: Path) -> None:
    """The same frames beside a sound that comes ``shift`` frames late."""
    import av

    source = SHARED / "data" / "grid" / "s1" / "bbaf2n.mpg"
    sound = AudioReader(source).read()
    late = np.pad(sound, (max(shift, 0) * FRAME, max(-shift, 0) * FRAME))[max(-shift, 0) * FRAME :]
    path = tmp_path / "late.mkv"
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        picture = container.add_stream("ffv1", rate=25)
        picture.width, picture.height, picture.pix_fmt = 360, 288, "yuv420p"
        picture.time_base = picture.codec_context.time_base = Fraction(1, 25)
        track = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for number, frame in enumerate(given.decode(video=0)):
            frame.pts = number
            frame.time_base = Fraction(1, 25)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        block = av.AudioFrame.from_ndarray((late[None] * 32767).astype(np.int16), format="s16", layout="mono")
        block.sample_rate = 16_000
        container.mux(track.encode(block))
        container.mux(track.encode(None))
    (tmp_path / "parts").mkdir()
    record = Worker(load("tiny"), tmp_path / "parts")(Job(path, path.name, path.stem, "s1", "train"))
    assert abs(record.offset - shift) <= 1
    assert record.corrected == record.offset
    (sample,) = open_dataset(tmp_path / "parts")
    moved = record.corrected * FRAME
    heard, wanted = sample["audio"], np.pad(late, (max(-moved, 0), 2 * MOST * FRAME))[max(moved, 0) :]
    np.testing.assert_allclose(heard, wanted[: len(heard)], atol=2e-3)
    frontal, _ = frontalize(sample["points"])
    assert tracks(frontal).shape == (2, len(frontal))
    assert lip_opening(frontal).max() > 0.05
