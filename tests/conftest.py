"""Inputs that several tests share; each is made once a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's, of each of the processes that share the cores


@pytest.fixture(scope="session", autouse=True)
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keys that tests make are not this user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("settings")))
        yield


@pytest.fixture(scope="session")
def speech_wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.02 s of the package's own spoken sentence."""
    from moditalker.media import AudioReader
    from moditalker.weights.named import ASSETS

    samples = AudioReader(ASSETS / "demo_speech.flac").read(1.02)
    return write_wav(tmp_path_factory.mktemp("speech") / "speech.wav", samples)


@pytest.fixture(scope="session")
def face_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1 s, 20 fps, 256x256: the astronaut drifts; frames 8 to 13 are empty, from 14 on she is mirrored."""
    from skimage import data

    picture = data.astronaut()[0:320, 60:380]
    frames = []
    for i in range(20):
        frame = np.ascontiguousarray(picture[i : i + 256, 20 : 20 + 256])
        if 8 <= i < 14:
            frame = np.full_like(frame, 90)
        frames.append(np.ascontiguousarray(frame[:, ::-1]) if i >= 14 else frame)
    path = tmp_path_factory.mktemp("face") / "face.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=20)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        stream.time_base = Fraction(1, 20)
        for i, frame in enumerate(frames):
            native = av.VideoFrame.from_ndarray(frame, format="rgb24")
            native.pts, native.time_base = i, Fraction(1, 20)
            container.mux(stream.encode(native))
        container.mux(stream.encode(None))
    return path


def write_video(path: Path, frames: np.ndarray, audio: Path | None = None, fps: int = 25) -> Path:
    """Frames (S, H, W, 3) uint8 as a lossless video, with the sound of a file."""
    from moditalker.media import Frame, VideoWriter, plain_info

    step = Fraction(1, fps)
    with VideoWriter(path, plain_info(frames.shape[2], frames.shape[1], fps), audio, lossless=True) as writer:
        for i, image in enumerate(frames):
            writer.write(Frame(i, i * step, step, image))
    return path


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of whole, untrained, small weights: what `--model` and `from_pretrained` take."""
    from standins import save_untrained

    return save_untrained(tmp_path_factory.mktemp("weights") / "small")


@pytest.fixture(scope="session")
def weights(shipped: Path) -> str:
    """The package's own weights; untrained ones where a checkout has none yet."""
    from moditalker.weights.named import MODELS

    return "tiny" if (MODELS / "tiny" / "atom.safetensors").is_file() else str(shipped)
