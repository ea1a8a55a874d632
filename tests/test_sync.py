"""Planted offsets are found; SyncNet's spectrum, network and distances against others' figures and words."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import mannwhitneyu

from moditalker.errors import UserError
from moditalker.metrics import given, syncnet
from moditalker.metrics.sync import MOST, at_25_fps, auc, compare_offsets
from moditalker.weights.named import MissingWeights, find_given

# ----------------------------------------------------------------------------------------------- offsets


def pair(late: int, frames: int = 75, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of sound, and of lips that show the same ``late`` frames afterwards."""
    rng = np.random.default_rng(late + 100)
    said = rng.normal(size=(frames + 40, 16))
    lips = said[20 - late : 20 - late + frames] + noise * rng.normal(size=(frames, 16))
    return lips, said[20 : 20 + frames]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("late", [*range(-10, 11), 15, -15])
def test_planted_offsets_are_found(late: int, zeros: bool) -> None:
    found = compare_offsets(*pair(late), zeros=zeros)
    assert found.offset == late
    assert found.distances.shape == (2 * MOST + 1,)
    assert found.confidence > 1
    assert found.distance == found.distances[MOST + late]


def test_noise_takes_the_confidence_away() -> None:
    found = [compare_offsets(*pair(3, noise=noise)).confidence for noise in (0.1, 0.5, 1, 2, 8)]
    assert found == sorted(found, reverse=True)


def test_distances_are_those_of_the_public_pipeline() -> None:
    """Its words: pad the sound by 15 zeros at both ends, then each lip row against its 31 neighbours."""
    lips, sound = (torch.from_numpy(x) for x in pair(4))
    padded = F.pad(sound, (0, 0, 15, 15))
    rows = [F.pairwise_distance(lips[[i]].repeat(31, 1), padded[i : i + 31]) for i in range(len(lips))]
    mean = torch.stack(rows, 1).mean(1)
    least, place = mean.min(0)
    found = compare_offsets(lips, sound, zeros=True)
    assert found.distance == pytest.approx(least.item(), abs=1e-4)
    assert found.confidence == pytest.approx((mean.median() - least).item(), abs=1e-4)
    assert found.offset == 15 - place.item()


def test_frames_without_a_face_count_for_nothing() -> None:
    lips, sound = pair(2)
    blind = lips.copy()
    blind[30:40] = np.nan
    lips[30:40] = 1e6
    assert compare_offsets(blind, sound).offset == 2
    assert compare_offsets(lips, sound).distance > 1e4


def test_what_cannot_be_compared_is_said() -> None:
    lips, sound = pair(0)
    with pytest.raises(ValueError, match="one width"):
        compare_offsets(lips, sound[:, :8])
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_offsets(lips[:10], sound[:10])
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_offsets(lips * np.nan, sound, zeros=True)


@pytest.mark.parametrize("fps", [25, 50, 12.5, 30000 / 1001, 23.976, 60])
def test_frames_at_25_a_second(fps: float) -> None:
    index = at_25_fps(round(4 * fps), fps)
    assert len(index) == 100
    late = np.arange(100) / 25 - index / fps  # the frame that is on show, never one to come
    assert late.min() > -1e-6
    assert late.max() < 1 / fps + 0.02


def test_auc_is_the_mann_whitney_statistic() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 40) + 2, rng.integers(0, 9, 30)
    assert auc(a, b) == pytest.approx(mannwhitneyu(a, b).statistic / (40 * 30))
    assert auc([3, 4], [1, 2]) == 1


# ----------------------------------------------------------------------------------------------- SyncNet

# Frames 0, 5 and 8 of python_speech_features 0.6, mfcc(), for the sound below.
MFCC = """
20.373135 18.709364 1.58754 -14.32544 -27.30132 -33.644671 -29.763647 -18.645561 -3.357808 9.973549 17.959672
17.921081 11.918954
19.878408 19.503851 2.63522 -13.188808 -26.149778 -32.511123 -28.644931 -17.674337 -2.350236 10.76154
18.861918 18.636519 12.348028
19.363652 22.463664 6.036474 -9.793027 -22.798707 -29.057877 -25.315225 -14.651706 -0.39331 11.364947
17.899875 16.597569 9.829089
"""


def test_cepstra_are_those_of_python_speech_features() -> None:
    time = np.arange(1600) / 16000
    found = syncnet.mfcc(0.5 * np.sin(2 * np.pi * 440 * time) * np.exp(-5 * time))
    assert found.shape == (9, 13)
    expected = np.array(MFCC.split(), float).reshape(3, 13)
    assert np.abs(found[[0, 5, 8]] - expected).max() < 2e-5  # their input is single precision at most
    assert np.isfinite(syncnet.mfcc(np.zeros(3200))).all()


SHAPES = {  # number in the public file's sequence: convolution's shape
    "netcnnaud": {
        0: (64, 1, 3, 3),
        4: (192, 64, 3, 3),
        8: (384, 192, 3, 3),
        11: (256, 384, 3, 3),
        14: (256, 256, 3, 3),
        18: (512, 256, 5, 4),
    },
    "netcnnlip": {
        0: (96, 3, 5, 7, 7),
        4: (256, 96, 1, 5, 5),
        8: (256, 256, 1, 3, 3),
        11: (256, 256, 1, 3, 3),
        14: (256, 256, 1, 3, 3),
        18: (512, 256, 1, 6, 6),
    },
    "netfcaud": {0: (512, 512), 3: (1024, 512)},
    "netfclip": {0: (512, 512), 3: (1024, 512)},
}


@pytest.fixture(scope="module")
def public() -> dict[str, torch.Tensor]:
    """Random weights under the names and in the shapes of syncnet_v2.model."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for part, layers in SHAPES.items():
        for number, shape in layers.items():
            fan = np.prod(shape[1:])
            state[f"{part}.{number}.weight"] = torch.randn(shape, generator=generator) / fan**0.5
            state[f"{part}.{number}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
            if not (part.startswith("netfc") and number == 3):
                for name in ("weight", "bias", "running_mean", "running_var"):
                    state[f"{part}.{number + 1}.{name}"] = torch.rand(shape[0], generator=generator) + 0.1
    return state


def forward(state: dict[str, torch.Tensor], part: str, x: torch.Tensor) -> torch.Tensor:
    """The public network's words, layer by layer."""
    sound = part == "aud"

    def layer(group: str, number: int, x: torch.Tensor, stride=1, padding=0) -> torch.Tensor:
        name = f"net{group}{part}.{number}"
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        if group == "fc":
            x = F.linear(x, weight, bias)
        else:
            x = (F.conv2d if sound else F.conv3d)(x, weight, bias, stride, padding)
        norm = f"net{group}{part}.{number + 1}"
        if f"{norm}.running_mean" in state:
            keys = ("running_mean", "running_var", "weight", "bias")
            x = F.relu(F.batch_norm(x, *(state[f"{norm}.{key}"] for key in keys)))
        return x

    if sound:
        x = layer("cnn", 0, x, 1, 1)
        x = F.max_pool2d(layer("cnn", 4, x, 1, 1), 3, (1, 2))
        x = layer("cnn", 14, layer("cnn", 11, layer("cnn", 8, x, 1, 1), 1, 1), 1, 1)
        x = layer("cnn", 18, F.max_pool2d(x, 3, 2))
    else:
        one, two, side = (1, 3, 3), (1, 2, 2), (0, 1, 1)
        x = F.max_pool3d(layer("cnn", 0, x, two), one, two)
        x = F.max_pool3d(layer("cnn", 4, x, two, side), one, two, side)
        x = layer("cnn", 14, layer("cnn", 11, layer("cnn", 8, x, 1, side), 1, side), 1, side)
        x = layer("cnn", 18, F.max_pool3d(x, one, two))
    return layer("fc", 3, layer("fc", 0, x.flatten(1)))


def test_the_public_file_gives_the_public_figures(public, tmp_path, monkeypatch) -> None:
    torch.save(public, tmp_path / "syncnet_v2.model", _use_new_zipfile_serialization=False)
    monkeypatch.setenv("MODITALKER_WEIGHTS", str(tmp_path / "kept"))
    rng = np.random.default_rng(1)
    faces = rng.integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)
    audio = rng.normal(0, 0.1, 8 * 640)
    with pytest.raises(MissingWeights, match=r"syncnet are not in .* moditalker weights add syncnet"):
        syncnet.sync(faces, audio)
    (kept,) = given.keep("syncnet", [tmp_path / "syncnet_v2.model"])
    assert kept == find_given("syncnet")
    found = syncnet.sync(faces, audio, batch=2)

    cepstra = torch.from_numpy(syncnet.mfcc(audio).T).float()
    lips, sound = [], []
    for i in range(8 - 5):
        window = torch.from_numpy(faces[i : i + 5].copy()).flip(-1).permute(3, 0, 1, 2)[None].float()
        lips.append(forward(public, "lip", window))
        sound.append(forward(public, "aud", cepstra[None, None, :, 4 * i : 4 * i + 20]))
    padded = F.pad(torch.cat(sound), (0, 0, 15, 15))
    rows = [F.pairwise_distance(lips[i].repeat(31, 1), padded[i : i + 31]) for i in range(3)]
    mean = torch.stack(rows, 1).mean(1)
    assert found.distances[::-1] == pytest.approx(mean.numpy(), rel=1e-3)
    assert found.distance == pytest.approx(mean.min().item(), rel=1e-3)


def test_other_files_get_their_sentence(public, tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    file = tmp_path / "syncnet_v2.model"
    file.write_bytes(pickle.dumps({"netcnnaud.0.weight": Evil()}))
    with pytest.raises(UserError, match="holds more than plain tensors"):
        given.keep("syncnet", [file], tmp_path)
    assert not (tmp_path / "ran").exists()
    for content in (
        torch.zeros(3),
        {"other": torch.zeros(3)},
        public | {"netcnnaud.0.bias": torch.zeros(3)},
    ):
        torch.save(content, file)
        with pytest.raises(UserError, match="does not hold SyncNet's weights"):
            given.keep("syncnet", [file], tmp_path)
    with pytest.raises(UserError, match="got 2 files"):
        given.keep("syncnet", [file, file], tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_too_short_and_wrong_shapes_are_said() -> None:
    model = syncnet.SyncNet()
    faces = np.zeros((5, 224, 224, 3), np.uint8)
    with pytest.raises(UserError, match=r"0\.20 s of video with 1\.00 s of sound; SyncNet needs 0\.24 s"):
        syncnet.sync(faces, np.zeros(16000), model)
    with pytest.raises(UserError, match=r"0\.00 s of sound"):
        syncnet.sync(np.concatenate([faces, faces]), np.zeros(0), model)
    with pytest.raises(ValueError, match="224"):
        syncnet.sync(faces[:, :100], np.zeros(16000), model)


def face(x: float, y: float, size: float) -> np.ndarray:
    """Landmarks in a square: jaw along the bottom, brows at a third, nose base at two thirds."""
    points = np.full((68, 2), [x, y], float)
    points[:17, 0] = np.linspace(x - size / 2, x + size / 2, 17)
    points[8, 1] = y + size / 2
    points[17:27, 1], points[33, 1] = y - size / 4, y + size / 4
    return points


def test_crops_are_squares_around_the_face() -> None:
    """A picture whose colours are its coordinates tells where each crop was cut."""
    frames = np.zeros((30, 200, 200, 3), np.uint8)
    frames[..., 0], frames[..., 1] = np.arange(200), np.arange(200)[:, None]
    points = np.stack([face(100, 90, 60)] * 30)
    points[12] = face(20, 20, 60)  # one frame's mistake, which the median takes away
    points[20] = np.nan
    crops = syncnet.face_crops(frames, points)
    assert crops.shape == (30, 224, 224, 3)
    assert (crops == crops[0]).all()
    # half = 30: from 100 - 42 to 100 + 42 across, from 90 - 30 to 90 - 30 + 84 down
    assert crops[0, 112, [0, -1], 0] == pytest.approx([58, 142], abs=1)
    assert crops[0, [0, -1], 112, 1] == pytest.approx([60, 144], abs=1)
    assert len(syncnet.face_crops(frames, points, 50)) == 15
    with pytest.raises(UserError, match="no frame shows a face"):
        syncnet.face_crops(frames, points * np.nan)
