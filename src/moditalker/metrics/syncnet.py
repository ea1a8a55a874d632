"""LSE-D and LSE-C: SyncNet's distance and confidence [Chung & Zisserman 2016, "Out of time"; Prajwal et al.
2020 for the names].

The layers are those of the public file syncnet_v2.model, which the user adds by `moditalker weights`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from moditalker.errors import UserError
from moditalker.geometry.raster import warp
from moditalker.media import SAMPLE_RATE
from moditalker.metrics.sync import FPS, Offsets, at_25_fps, compare_offsets
from moditalker.weights.files import load_weights
from moditalker.weights.named import find_given

SIDE = 224  # pixels of a face crop
WINDOW = 5  # frames of a window
STEPS = 4  # 10 ms spectrum steps per video frame
CEPSTRA = 13
MARGIN = 0.4  # share of the box's side added to the crop's side
MEDIAN = 13  # frames of the median that steadies the box

# --------------------------------------------------------------------------------------------- network


def _stack(layers: Sequence[nn.Module], norm: type[nn.Module]) -> nn.Sequential:
    """Add a normalisation and a ReLU after every convolution."""
    every: list[nn.Module] = []
    for layer in layers:
        every.append(layer)
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            every += [norm(layer.out_channels), nn.ReLU()]
    return nn.Sequential(*every)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


class SyncNet(nn.Module):
    """Two streams that end in embeddings (N, 1024)."""

    def __init__(self) -> None:
        super().__init__()
        spectra = [
            *(nn.Conv2d(1, 64, 3, 1, 1), nn.MaxPool2d(1, 1)),
            *(nn.Conv2d(64, 192, 3, 1, 1), nn.MaxPool2d(3, (1, 2))),
            *(nn.Conv2d(192, 384, 3, 1, 1), nn.Conv2d(384, 256, 3, 1, 1)),
            *(nn.Conv2d(256, 256, 3, 1, 1), nn.MaxPool2d(3, 2)),
            nn.Conv2d(256, 512, (5, 4)),
        ]
        pool, half = (1, 3, 3), (1, 2, 2)
        faces = [
            *(nn.Conv3d(3, 96, (WINDOW, 7, 7), half), nn.MaxPool3d(pool, half)),
            *(nn.Conv3d(96, 256, (1, 5, 5), half, (0, 1, 1)), nn.MaxPool3d(pool, half, (0, 1, 1))),
            *(nn.Conv3d(256, 256, pool, 1, (0, 1, 1)) for _ in range(3)),
            nn.MaxPool3d(pool, half),
            nn.Conv3d(256, 512, (1, 6, 6)),
        ]
        self.sound, self.lips = _stack(spectra, nn.BatchNorm2d), _stack(faces, nn.BatchNorm3d)
        self.sound_head, self.lips_head = _head(), _head()

    def embed_sound(self, cepstra: Tensor) -> Tensor:
        """MFCC (N, 1, 13, 20) -> (N, 1024)."""
        embedding: Tensor = self.sound_head(self.sound(cepstra).flatten(1))
        return embedding

    def embed_lips(self, faces: Tensor) -> Tensor:
        """Crops (N, 3, 5, 224, 224), blue before red, 0 to 255 -> (N, 1024)."""
        embedding: Tensor = self.lips_head(self.lips(faces).flatten(1))
        return embedding


_PARTS = {"netcnnaud": "sound", "netfcaud": "sound_head", "netcnnlip": "lips", "netfclip": "lips_head"}


def read_files(files: Sequence[Path]) -> dict[str, dict[str, Tensor]]:
    """Read syncnet_v2.model without running code in it. Return {"syncnet": state dict}.

    Raises UserError if there is not exactly one file, or it does not hold SyncNet's weights.
    """
    if len(files) != 1:
        raise UserError(f"syncnet: got {len(files)} files; give exactly one, syncnet_v2.model")
    try:
        content = torch.load(files[0], map_location="cpu", weights_only=True)
    except Exception:  # a damaged file makes torch's reader raise anything
        reason = "is damaged or holds more than plain tensors; download it again"
        raise UserError(f"{files[0]} {reason}") from None
    state = {}
    for name, tensor in content.items() if isinstance(content, dict) else ():
        part, _, rest = str(name).partition(".")
        if part in _PARTS and isinstance(tensor, Tensor):
            state[f"{_PARTS[part]}.{rest}"] = tensor
    for part, module in SyncNet().named_modules():  # files of old versions of torch lack these counters
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            state.setdefault(f"{part}.num_batches_tracked", torch.tensor(0))
    try:
        SyncNet().load_state_dict(state)
    except RuntimeError:
        raise UserError(f"{files[0]} does not hold SyncNet's weights; give syncnet_v2.model") from None
    return {"syncnet": state}


@cache
def load_syncnet(file: Path | None = None) -> SyncNet:
    """Load the weights added by `moditalker weights add syncnet`, or a file of that format.

    Raises UserError (weights.MissingWeights), with the way out, if there are none.
    """
    path = file or find_given("syncnet")
    state, _ = load_weights(path)
    model = SyncNet()
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise UserError(f"{path} does not hold SyncNet; add its weights again") from None
    return model.eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------------ figures


@torch.inference_mode()
def sync(faces: ArrayLike, audio: ArrayLike, model: SyncNet | None = None, batch: int = 8) -> Offsets:
    """LSE-D (`distance`), LSE-C (`confidence`) and how late the lips are (`offset`) in a face track.

    Args:
        faces: (S, 224, 224, 3) uint8 RGB at 25 frames a second, see `face_crops`.
        audio: (N,) in [-1, 1] at 16 kHz, from the same moment on.
        model: by default the user's weights.

    Raises UserError if the weights are missing or fewer than 6 frames have sound; ValueError if a shape is
    wrong.
    """
    crops, samples = np.asarray(faces), np.asarray(audio, np.float32)
    if crops.ndim != 4 or crops.shape[1:] != (SIDE, SIDE, 3) or samples.ndim != 1:
        raise ValueError(
            f"faces must be (S, {SIDE}, {SIDE}, 3) and audio (N,), not {crops.shape} and {samples.shape}"
        )
    model = model or load_syncnet()
    cepstra = torch.from_numpy(mfcc(samples).T).float()  # (13, 10 ms steps)
    windows = min(len(crops), len(samples) // (SAMPLE_RATE // FPS)) - WINDOW
    if windows < 1:
        raise UserError(
            f"{len(crops) / FPS:.2f} s of video with {len(samples) / SAMPLE_RATE:.2f} s of sound; "
            f"SyncNet needs {(WINDOW + 1) / FPS:.2f} s of both"
        )
    lips, sound = [], []
    for start in range(0, windows, batch):
        chosen = range(start, min(start + batch, windows))
        seen = np.stack([crops[i : i + WINDOW, :, :, ::-1] for i in chosen])  # blue first
        lips.append(model.embed_lips(torch.from_numpy(seen).permute(0, 4, 1, 2, 3).float()))
        heard = [cepstra[:, STEPS * i : STEPS * (i + WINDOW)] for i in chosen]
        sound.append(model.embed_sound(torch.stack(heard)[:, None]))
    return compare_offsets(torch.cat(lips).numpy(), torch.cat(sound).numpy(), zeros=True)


def face_crops(frames: NDArray[np.uint8], landmarks: ArrayLike, fps: float = FPS) -> NDArray[np.uint8]:
    """Cut face crops as SyncNet's pipeline does, at 25 frames a second: (S', 224, 224, 3) uint8.

    A median over 13 frames steadies a square box around the face. The crop is 1.4 times the box. It grows
    equally left and right, and vertically only downwards. The pipeline's box is its face detector's; here it
    is the landmarks', up to the middle of the forehead [ours].

    Args:
        frames: (S, H, W, 3) uint8; landmarks: (S, 68, 2 or 3) in frame pixels, NaN if a frame has no face.
            Its box is interpolated from its neighbours.

    Raises UserError if no frame has a face.
    """
    shown = at_25_fps(len(frames), fps)
    points = np.asarray(landmarks, np.float64)[shown, :, :2]
    left, right, chin = points[..., 0].min(1), points[..., 0].max(1), points[..., 1].max(1)
    brows, nose = points[:, 17:27, 1].min(1), points[:, 33, 1]
    top = brows - (nose - brows) / 2
    half = np.maximum(right - left, chin - top) / 2
    track = np.stack([half, (left + right) / 2, (top + chin) / 2], axis=1)
    usable = np.flatnonzero(np.isfinite(track).all(1))
    if not len(usable):
        raise UserError("no frame shows a face; lips and sound cannot be compared")
    every = np.arange(len(track))
    track = np.stack([np.interp(every, usable, column[usable]) for column in track.T], axis=1)
    padded = np.pad(track, ((MEDIAN // 2, MEDIAN // 2), (0, 0)), "edge")
    half, x, y = np.median(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN, 0), axis=-1).T
    scale = SIDE / (2 * half * (1 + MARGIN))
    matrices = np.zeros((len(track), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = scale
    matrices[:, 0, 2] = (0.5 - (x - half * (1 + MARGIN))) * scale - 0.5  # from the corner to pixel centres
    matrices[:, 1, 2] = (0.5 - (y - half)) * scale - 0.5
    crops: NDArray[np.uint8] = np.asarray(warp(frames[shown], matrices, SIDE, "zeros"), np.uint8)
    return crops


# ------------------------------------------------------------------------------------------------- sound


def mfcc(audio: ArrayLike) -> NDArray[np.float64]:
    """Mel cepstra (n, 13) of sound (N,) in [-1, 1] at 16 kHz, every 10 ms [Davis & Mermelstein 1980].

    Same as python_speech_features' defaults, on 16-bit samples: pre-emphasis 0.97, 25 ms without a window
    function, 26 triangles to 8 kHz, logarithm, orthonormal DCT, sine lifter of 22. The first coefficient is
    replaced by the frame's log energy.
    """
    samples = np.round(np.asarray(audio, np.float64) * 32768).clip(-32768, 32767)
    length, step, size = 400, 160, 512
    sharp = np.append(samples[:1], samples[1:] - 0.97 * samples[:-1])
    count = 1 + max(0, -(-(len(sharp) - length) // step))
    sharp = np.pad(sharp, (0, (count - 1) * step + length - len(sharp)))
    frames = np.lib.stride_tricks.sliding_window_view(sharp, length)[::step]
    power = np.abs(np.fft.rfft(frames, size)) ** 2 / size
    least = np.finfo(np.float64).eps
    energy = power.sum(1)
    bands = power @ _triangles(26, size).T
    logs = np.log(np.where(bands == 0, least, bands))
    cepstra = logs @ _cosines(26)[:CEPSTRA].T
    cepstra = cepstra * (1 + 11 * np.sin(np.pi * np.arange(CEPSTRA) / 22))
    cepstra[:, 0] = np.log(np.where(energy == 0, least, energy))
    result: NDArray[np.float64] = cepstra
    return result


def _triangles(bands: int, size: int) -> NDArray[np.float64]:
    """Triangles evenly spaced in mel from 0 to 8 kHz, their corners on bins: (bands, size / 2 + 1)."""
    mel = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), bands + 2)
    edges = np.floor((size + 1) * 700 * (10 ** (mel / 2595) - 1) / SAMPLE_RATE)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = np.arange(size // 2 + 1)
    rise, fall = (bins - low) / (centre - low), (high - bins) / (high - centre)
    result: NDArray[np.float64] = np.clip(np.minimum(rise, fall), 0, None)
    return result


def _cosines(size: int) -> NDArray[np.float64]:
    """The orthonormal DCT of type 2 as a matrix."""
    n = np.arange(size)
    matrix = np.sqrt(2 / size) * np.cos(np.pi * n[:, None] * (2 * n + 1) / (2 * size))
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix)
