"""How fast is a whole job beside the networks alone of other talking heads? All in one run, in turns.

    python benchmarks/peers.py
    python benchmarks/peers.py --rounds 7 --only wav2lip --threads 1

Peers are written here from the shapes that their papers and model cards publish, with random weights: times
and operations do not depend on the values. Their numbers of parameters stand beside the published ones. Only
the networks are timed: no face detection, no crops, no paste, no reading or writing. Ours is the whole job: a
video of 512x512 pixels and a sound file in, a finished file out, weights already loaded.

| peer | what is timed for a frame |
|---|---|
| Wav2Lip (2020) | the generator, 96x96, batches of 16 |
| MuseTalk (2024) | the UNet, one step, and the VAE's decoder, 256x256 (latents 32x32) |
| LivePortrait (2024) | motion extractor (of 256x256), warping, generator of 512x512 |
| MoDiTalker as released (2024) | encoders, 25 steps and the decoder for a clip of 16 frames, 256x256 |

Each peer has the faster of two memory layouts. A figure is the median over rounds; the ratio is the median of
the ratios of a round, so that load that comes and goes weighs on both.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Make = Callable[[], "Peer"]


@dataclass
class Peer:
    """Networks and what they do for some frames.

    work: parts with their calls for `frames` frames; times: how often a part runs for them; millions: of
    parameters, here and as published (0: no figure is published).
    """

    name: str
    frames: int
    work: dict[str, Callable[[], object]]
    times: dict[str, int] = field(default_factory=dict)
    millions: tuple[float, float] = (0.0, 0.0)


def parameters(*networks: nn.Module) -> float:
    """Millions of parameters."""
    return sum(p.numel() for network in networks for p in network.parameters()) / 1e6


# ---------------------------------------------------------------------------------------------------- Wav2Lip


class Unit(nn.Module):
    """Convolution (or its transpose), batch norm, ReLU; with `residual` the input is added before it."""

    def __init__(
        self, i: int, o: int, k: int = 3, stride: Any = 1, pad: int = 1, up: int | None = None
    ) -> None:
        super().__init__()
        self.residual = up is None and i == o and stride == 1 and k == 3 and pad == 1
        self.conv: nn.Module = (
            nn.Conv2d(i, o, k, stride, pad)
            if up is None
            else nn.ConvTranspose2d(i, o, k, stride, pad, output_padding=up)
        )
        self.norm = nn.BatchNorm2d(o)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return F.relu(y + x if self.residual else y)


class Wav2Lip(nn.Module):
    """Prajwal et al. 2020: a face with its lower half masked beside another frame (6, 96, 96), and 0.2 s of
    mel spectrogram (80, 16), become a face.
    """

    def __init__(self) -> None:
        super().__init__()
        widths, repeats = (16, 32, 64, 128, 256, 512), (0, 2, 3, 2, 2, 1)
        stages = [nn.Sequential(Unit(6, 16, 7, 1, 3))]
        for before, width, count in zip(widths, widths[1:], repeats[1:], strict=False):
            rest = [Unit(width, width) for _ in range(count)]
            stages.append(nn.Sequential(Unit(before, width, 3, 2), *rest))
        stages.append(nn.Sequential(Unit(512, 512, 3, 1, 0), Unit(512, 512, 1, 1, 0)))
        self.face = nn.ModuleList(stages)
        sound: list[nn.Module] = [Unit(1, 32)]
        for before, width, stride, count in (
            *((32, 32, 1, 1), (32, 64, (3, 1), 2), (64, 128, 3, 2), (128, 256, (3, 2), 1)),
        ):
            units = [Unit(before, width, 3, stride)] + [Unit(width, width) for _ in range(count)]
            sound += units
        self.sound = nn.Sequential(*sound, Unit(256, 512, 3, 1, 0), Unit(512, 512, 1, 1, 0))
        ups = [nn.Sequential(Unit(512, 512, 1, 1, 0))]
        ups.append(nn.Sequential(Unit(1024, 512, 3, 1, 0, up=0), Unit(512, 512)))
        for width, skipped, out in (
            (512, 512, 512),
            (512, 256, 384),
            (384, 128, 256),
            (256, 64, 128),
            (128, 32, 64),
        ):
            rest = [Unit(out, out) for _ in range(2)]
            ups.append(nn.Sequential(Unit(width + skipped, out, 3, 2, 1, up=1), *rest))
        self.ups = nn.ModuleList(ups)
        self.out = nn.Sequential(Unit(64 + 16, 32), nn.Conv2d(32, 3, 1))

    def forward(self, sound: Tensor, face: Tensor) -> Tensor:
        seen, x = [], face
        for stage in self.face:
            seen.append(x := stage(x))
        y = self.sound(sound)
        for up in self.ups:
            y = torch.cat((up(y), seen.pop()), 1)
        return torch.sigmoid(self.out(y))


def wav2lip() -> Peer:
    network, count = Wav2Lip().eval(), 16
    sound, face = torch.rand(count, 1, 80, 16), torch.rand(count, 6, 96, 96)
    network = faster(network, lambda: network(sound, face))
    return Peer(
        "Wav2Lip", count, {"generator": lambda: network(sound, face)}, {}, (parameters(network), 36.3)
    )


# --------------------------------------------------------------------------------------------------- MuseTalk


class Residual(nn.Module):
    """Two times group norm, SiLU, convolution; a step's vector is added between them."""

    def __init__(self, i: int, o: int, vector: int = 0) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, i), nn.Conv2d(i, o, 3, padding=1)
        self.step = nn.Linear(vector, o) if vector else None
        self.norm2, self.conv2 = nn.GroupNorm(32, o), nn.Conv2d(o, o, 3, padding=1)
        self.skip = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        if self.step is not None and vector is not None:
            y = y + self.step(F.silu(vector))[..., None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class Attention(nn.Module):
    """Queries of `width`, keys and values of `other`."""

    def __init__(self, width: int, other: int, heads: int, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.Linear(width, width, bias), nn.Linear(other, width, bias)
        self.v, self.out = nn.Linear(other, width, bias), nn.Linear(width, width)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        parts = (self.q(x), self.k(other), self.v(other))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Self-attention, attention to speech and a gated linear layer over the cells of a map."""

    def __init__(self, width: int, other: int, heads: int = 8) -> None:
        super().__init__()
        self.norm, self.before, self.after = (
            nn.GroupNorm(32, width),
            nn.Conv2d(width, width, 1),
            nn.Conv2d(width, width, 1),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own, self.other = Attention(width, width, heads), Attention(width, other, heads)
        self.wide, self.narrow = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        cells = self.before(self.norm(x)).flatten(2).transpose(1, 2)
        y = self.norms[0](cells)
        cells = cells + self.own(y, y)
        cells = cells + self.other(self.norms[1](cells), other)
        value, gate = self.wide(self.norms[2](cells)).chunk(2, -1)
        cells = cells + self.narrow(value * F.gelu(gate))
        return x + self.after(cells.transpose(1, 2).unflatten(2, x.shape[2:]))


class UNet(nn.Module):
    """The UNet of Stable Diffusion (Rombach et al. 2022): widths 320, 640, 1280, 1280, two blocks each,
    attention at the three larger sizes.
    """

    def __init__(self, channels: int = 8, other: int = 384) -> None:
        super().__init__()
        widths, vector = (320, 640, 1280, 1280), 1280
        self.step = nn.Sequential(nn.Linear(320, vector), nn.SiLU(), nn.Linear(vector, vector))
        self.begin = nn.Conv2d(channels, 320, 3, padding=1)
        self.downs, self.ups, skipped, width = nn.ModuleList(), nn.ModuleList(), [320], 320
        for level, out in enumerate(widths):
            for _ in range(2):
                self.downs.append(nn.ModuleList(self._blocks(width, out, vector, other if level < 3 else 0)))
                skipped.append(width := out)
            if level < 3:
                self.downs.append(nn.ModuleList([nn.Conv2d(out, out, 3, 2, 1)]))
                skipped.append(out)
        self.middle = nn.ModuleList(
            (Residual(1280, 1280, vector), Transformer(1280, other), Residual(1280, 1280, vector))
        )
        for level, out in reversed(list(enumerate(widths))):
            for number in range(3):
                blocks = self._blocks(width + skipped.pop(), out, vector, other if level < 3 else 0)
                if number == 2 and level:
                    blocks.append(nn.Conv2d(out, out, 3, padding=1))
                self.ups.append(nn.ModuleList(blocks))
                width = out
        self.norm, self.end = nn.GroupNorm(32, 320), nn.Conv2d(320, 4, 3, padding=1)

    @staticmethod
    def _blocks(i: int, o: int, vector: int, other: int) -> list[nn.Module]:
        return [Residual(i, o, vector), *([Transformer(o, other)] if other else [])]

    def forward(self, x: Tensor, t: Tensor, speech: Tensor) -> Tensor:
        vector, x = self.step(t), self.begin(x)
        seen = [x]

        def through(blocks: Any, x: Tensor) -> Tensor:
            for block in blocks:
                if isinstance(block, Residual):
                    x = block(x, vector)
                elif isinstance(block, Transformer):
                    x = block(x, speech)
                else:
                    x = block(x if block.stride == (2, 2) else F.interpolate(x, scale_factor=2.0))
            return x

        for blocks in self.downs:
            seen.append(x := through(blocks, x))
        x = through(self.middle, x)
        for blocks in self.ups:
            x = through(blocks, torch.cat((x, seen.pop()), 1))
        return self.end(F.silu(self.norm(x)))


class Middle(nn.Module):
    """Residual, attention over all cells, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Residual(width, width), Residual(width, width)
        self.norm, self.attention = nn.GroupNorm(32, width), Attention(width, width, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        cells = self.norm(x).flatten(2).transpose(1, 2)
        return self.second(x + self.attention(cells, cells).transpose(1, 2).unflatten(2, x.shape[2:]))


class VAE(nn.Module):
    """The autoencoder of Stable Diffusion: widths 128, 256, 512, 512, an eighth of the size, 4 channels."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, 128, 3, padding=1)]
        width = 128
        for level, out in enumerate((128, 256, 512, 512)):
            parts += [Residual(width, out), Residual(out, out)]
            if level < 3:
                parts += [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(out, out, 3, 2)]
            width = out
        ends = (nn.GroupNorm(32, 512), nn.SiLU(), nn.Conv2d(512, 8, 3, padding=1), nn.Conv2d(8, 8, 1))
        self.encoder = nn.Sequential(*parts, Middle(512), *ends)
        parts = [nn.Conv2d(4, 4, 1), nn.Conv2d(4, 512, 3, padding=1), Middle(512)]
        for level, out in enumerate((512, 512, 256, 128)):
            parts += [Residual(width, out), Residual(out, out), Residual(out, out)]
            if level < 3:
                parts += [nn.Upsample(scale_factor=2.0), nn.Conv2d(out, out, 3, padding=1)]
            width = out
        self.decoder = nn.Sequential(
            *parts, nn.GroupNorm(32, 128), nn.SiLU(), nn.Conv2d(128, 3, 3, padding=1)
        )


def musetalk() -> Peer:
    with torch.device(
        "meta"
    ):  # the check of the shapes: text of 768 in place of speech of 384, and 4 channels
        checked = parameters(UNet(4, 768), VAE())
    unet, vae = UNet().eval(), VAE().eval()
    latent, step, speech = torch.rand(1, 8, 32, 32), torch.rand(1, 320), torch.rand(1, 50, 384)
    codes = torch.rand(1, 4, 32, 32)
    unet = faster(unet, lambda: unet(latent, step, speech))
    vae = faster(vae, lambda: vae.decoder(codes))
    work = {"UNet": lambda: unet(latent, step, speech), "decoder": lambda: vae.decoder(codes)}
    return Peer("MuseTalk", 1, work, {}, (checked, 859.52 + 83.65))


# ----------------------------------------------------------------------------------------------- LivePortrait


class ConvNext(nn.Module):
    """A block of ConvNeXt V2 (Woo et al. 2023)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.near, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gain, self.bias = nn.Parameter(torch.zeros(4 * width)), nn.Parameter(torch.zeros(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.wide(self.norm(self.near(x).permute(0, 2, 3, 1))))
        strength = y.norm(dim=(1, 2), keepdim=True)
        y = self.gain * (y * strength / (strength.mean(-1, keepdim=True) + 1e-6)) + self.bias + y
        return x + self.narrow(y).permute(0, 3, 1, 2)


def motion_extractor() -> nn.Module:
    """ConvNeXt V2 tiny with heads for 21 keypoints, their expression, pose, scale and place."""
    widths, parts = (96, 192, 384, 768), list[nn.Module]()
    for number, (width, depth) in enumerate(zip(widths, (3, 3, 9, 3), strict=True)):
        down = nn.Conv2d(3, 96, 4, 4) if not number else nn.Conv2d(widths[number - 1], width, 2, 2)
        norms = [nn.GroupNorm(1, 96)] if not number else [nn.GroupNorm(1, widths[number - 1])]
        parts += [down, *norms] if not number else [*norms, down]
        parts += [ConvNext(width) for _ in range(depth)]
    ends = (
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(768),
        nn.Linear(768, 63 + 63 + 3 * 66 + 3 + 1),
    )
    return nn.Sequential(*parts, *ends)


class Volume(nn.Module):
    """Convolution, batch norm, ReLU in three dimensions; down halves height and width, up doubles them."""

    def __init__(self, i: int, o: int, way: str = "") -> None:
        super().__init__()
        self.conv, self.norm, self.way = nn.Conv3d(i, o, 3, padding=1), nn.BatchNorm3d(o), way

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=(1.0, 2.0, 2.0)) if self.way == "up" else x
        x = F.relu(self.norm(self.conv(x)))
        return F.avg_pool3d(x, (1, 2, 2)) if self.way == "down" else x


class Warping(nn.Module):
    """Dense motion of 21 keypoints and the background over a volume of 32 channels, 16 x 64 x 64 (Wang et al.
    2021): each warps the volume, an hourglass weighs them, and the result becomes a map of 256 channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.norm = nn.Conv3d(32, 4, 1), nn.BatchNorm3d(4)
        widths = [110, 64, 128, 256, 512, 1024]
        self.downs = nn.ModuleList(Volume(i, o, "down") for i, o in pairwise(widths))
        outs = (512, 256, 128, 64, 32)
        ins = (1024, *(o + s for o, s in zip(outs, (512, 256, 128, 64), strict=False)))
        self.ups = nn.ModuleList(Volume(i, o, "up") for i, o in zip(ins, outs, strict=True))
        self.last = Volume(142, 142)
        self.mask, self.occlusion = nn.Conv3d(142, 22, 7, padding=3), nn.Conv2d(142 * 16, 1, 7, padding=3)
        self.third = nn.Sequential(nn.Conv2d(512, 256, 3, padding=1), nn.BatchNorm2d(256), nn.LeakyReLU(0.01))
        self.fourth = nn.Conv2d(256, 256, 1)

    def forward(self, volume: Tensor, moves: Tensor, heat: Tensor) -> Tensor:
        """Volume (1, 32, 16, 64, 64), fields (22, 16, 64, 64, 3), heat maps (1, 22, 1, 16, 64, 64)."""
        small = F.relu(self.norm(self.narrow(volume)))
        moved = F.grid_sample(small.expand(22, -1, -1, -1, -1), moves, align_corners=False)
        x = torch.cat((heat, moved[None]), 2).flatten(1, 2)
        seen = [x]
        for down in self.downs:
            seen.append(x := down(x))
        seen.pop()
        for up in self.ups:
            x = torch.cat((up(x), seen.pop()), 1)
        x = self.last(x)
        mask = self.mask(x).softmax(1)
        field = (mask[0, ..., None] * moves).sum(0, keepdim=True)
        warped = F.grid_sample(volume, field, align_corners=False).flatten(1, 2)
        return self.fourth(self.third(warped)) * torch.sigmoid(self.occlusion(x.flatten(1, 2)))


class Spade(nn.Module):
    """Instance norm whose scale and shift are made from a map (Park et al. 2019)."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(width)
        self.shared = nn.Conv2d(labels, 128, 3, padding=1)
        self.scale, self.shift = nn.Conv2d(128, width, 3, padding=1), nn.Conv2d(128, width, 3, padding=1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y = F.relu(self.shared(F.interpolate(labels, x.shape[2:])))
        return self.norm(x) * (1 + self.scale(y)) + self.shift(y)


class SpadeBlock(nn.Module):
    def __init__(self, i: int, o: int, labels: int) -> None:
        super().__init__()
        middle = min(i, o)
        self.first, self.conv1 = Spade(i, labels), nn.Conv2d(i, middle, 3, padding=1)
        self.second, self.conv2 = Spade(middle, labels), nn.Conv2d(middle, o, 3, padding=1)
        self.skip = (Spade(i, labels), nn.Conv2d(i, o, 1, bias=False)) if i != o else None
        if self.skip is not None:
            self.side = nn.ModuleList(self.skip)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y = self.conv1(F.leaky_relu(self.first(x, labels), 0.2))
        y = self.conv2(F.leaky_relu(self.second(y, labels), 0.2))
        return y + (x if self.skip is None else self.skip[1](self.skip[0](x, labels)))


class Generator(nn.Module):
    """A map of 256 channels, 64x64, becomes a picture of 512x512: SPADE blocks and a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.begin = nn.Conv2d(256, 512, 3, padding=1)
        self.middle = nn.ModuleList(SpadeBlock(512, 512, 256) for _ in range(6))
        self.ups = nn.ModuleList((SpadeBlock(512, 256, 256), SpadeBlock(256, 64, 256)))
        self.end = nn.Conv2d(64, 12, 3, padding=1)

    def forward(self, labels: Tensor) -> Tensor:
        x = self.begin(labels)
        for block in self.middle:
            x = block(x, labels)
        for block in self.ups:
            x = block(F.interpolate(x, scale_factor=2.0), labels)
        return torch.sigmoid(F.pixel_shuffle(self.end(F.leaky_relu(x, 0.2)), 2))


def liveportrait() -> Peer:
    extractor, warping, generator = motion_extractor().eval(), Warping().eval(), Generator().eval()
    picture, volume = torch.rand(1, 3, 256, 256), torch.rand(1, 32, 16, 64, 64)
    moves, heat = torch.rand(22, 16, 64, 64, 3) * 2 - 1, torch.rand(1, 22, 1, 16, 64, 64)
    labels = torch.rand(1, 256, 64, 64)
    extractor = faster(extractor, lambda: extractor(picture))
    generator = faster(generator, lambda: generator(labels))
    work = {
        "motion": lambda: extractor(picture),
        "warping": lambda: warping(volume, moves, heat),
        "generator": lambda: generator(labels),
    }
    millions = parameters(extractor, warping, generator), 28.12 + 45.53 + 55.37
    return Peer("LivePortrait", 1, work, {}, millions)


# ----------------------------------------------------------------------------------------------- as released


def released() -> Peer:
    """Our own networks in the released configuration; its clip is 16 frames of 256x256."""
    from moditalker import config as configuration
    from moditalker.geometry.looks import Identity
    from moditalker.video.model import VideoModel
    from moditalker.video.stage import VideoSampler

    config = configuration.load("released")
    model = VideoModel(config).eval()
    sampler, frames = VideoSampler(model), config.autoencoder.frames
    size = config.crop.size
    crop, points = np.zeros((size, size, 3), np.uint8), np.full((68, 2), size / 2, np.float32)
    points += np.random.default_rng(0).normal(0, size / 8, points.shape).astype(np.float32)
    height, width = config.autoencoder.height, config.autoencoder.width
    video, still = torch.zeros(1, 3, frames, height, width), torch.zeros(1, 3, height, width)
    spots = torch.from_numpy(points)[None]
    conditions = model.conditions(
        video, video[:, :, :1], still, spots[:, None].expand(-1, frames, -1, -1), spots
    )
    noise, t = torch.randn_like(conditions.identity), torch.ones(1, dtype=torch.long)
    work = {
        "a clip of one step": lambda: list(
            sampler([(crop, points, points)] * frames, Identity(crop, points), 0, 1)
        ),
        "another step": lambda: model.predict(noise, t, conditions),
    }
    steps = config.mtov_diffusion.sampling_steps
    return Peer("MoDiTalker, released", frames, work, {"another step": steps - 1}, (parameters(model), 0.0))


PEERS: dict[str, Make] = {
    **{"wav2lip": wav2lip, "musetalk": musetalk},
    **{"liveportrait": liveportrait, "released": released},
}


# ------------------------------------------------------------------------------------------------------ time


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of processor time of all threads."""
    begun, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begun, time.process_time() - cpu


def faster(network: Any, call: Callable[[], object]) -> Any:
    """The network in the faster of two memory layouts."""
    seconds = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        network.to(memory_format=layout)
        call()
        seconds[layout] = min(timed(call)[1] for _ in range(2))
    return network.to(memory_format=min(seconds, key=lambda one: seconds[one]))


def operations(peer: Peer) -> float:
    """GFLOP for a frame: 2 for a multiplication with its addition."""
    from moditalker.evaluate.speed import _counted

    whole = sum(_counted(call) * peer.times.get(part, 1) for part, call in peer.work.items())
    return whole / peer.frames / 1e9


class Ours:
    """The whole job: a moving face of 512x512 and a sentence become a file."""

    def __init__(self, folder: Path, seconds: float) -> None:
        from soak import film, sound

        from moditalker import MoDiTalker

        self.face, self.audio, self.out = folder / "face.mp4", folder / "speech.flac", folder / "out.mp4"
        film(self.face, 512, seconds, np.random.default_rng(0))
        sound(self.audio, seconds)
        self.frames, self.talker = round(25 * seconds), MoDiTalker.from_pretrained("tiny")

    def __call__(self) -> None:
        self.talker.generate(self.face, self.audio, seed=0).save(self.out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of our video")
    parser.add_argument("--threads", type=int, help="default: torch's own")
    parser.add_argument("--only", metavar="PEER", action="append", choices=[*PEERS], help=", ".join(PEERS))
    parser.add_argument("--results", type=Path, help="all times as JSON")
    arguments = parser.parse_args()
    if "OMP_WAIT_POLICY" not in os.environ:  # as every command of ours has it; it counts from the start alone
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    times: dict[str, list[tuple[float, float]]] = {}
    told: dict[str, tuple[float, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="peers-") as folder, torch.inference_mode():
        ours = Ours(Path(folder), arguments.seconds)
        ours()
        peers = {name: PEERS[name]() for name in arguments.only or PEERS}
        for peer in peers.values():
            told[peer.name] = operations(peer), peer.millions
        for _ in range(arguments.rounds):
            wall, cpu = timed(ours)
            times.setdefault("ours", []).append((wall / ours.frames, cpu / ours.frames))
            for peer in peers.values():
                parts = [(timed(call), peer.times.get(name, 1)) for name, call in peer.work.items()]
                spent = [sum(part[n] * count for part, count in parts) / peer.frames for n in (0, 1)]
                times.setdefault(peer.name, []).append((spent[0], spent[1]))
            print(".", end="", flush=True)
    load, threads = os.getloadavg()[0], torch.get_num_threads()
    print(f"\n{arguments.rounds} rounds, {threads} threads, load {load:.1f}; milliseconds for a frame")
    print("| | wall | processor | times ours (wall; processor) | GFLOP | million parameters (published) |")
    print("|---|---|---|---|---|---|")
    for name, spent in times.items():
        wall, cpu = (1000 * median(one[n] for one in spent) for n in (0, 1))
        ratios = [
            median(one[n] / own[n] for one, own in zip(spent, times["ours"], strict=True)) for n in (0, 1)
        ]
        about = (
            "| |"
            if name == "ours"
            else f"| {told[name][0]:.1f} | {told[name][1][0]:.2f} ({told[name][1][1] or '-'})"
        )
        print(f"| {name} | {wall:.0f} | {cpu:.0f} | {ratios[0]:.2f}; {ratios[1]:.2f} {about} |")
    if arguments.results is not None:
        arguments.results.write_text(json.dumps({"times": times, "about": told}))


if __name__ == "__main__":
    main()
