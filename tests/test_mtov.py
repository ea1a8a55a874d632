"""MToV's UNet: planes of any size, each condition heard, nothing dead."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from moditalker.config import MToVConfig, load
from moditalker.video.autoencoder import plane_shape
from moditalker.video.mtov import MToV
from moditalker.video.triplane import PlaneShape

SMALL = MToVConfig(channels=32, multipliers=(1, 2, 2), blocks=1, attention=(2,), heads=4)
SHAPE = PlaneShape(frames=5, height=9, width=6)
CHANNELS = 3


def build(config: MToVConfig = SMALL, shape: PlaneShape = SHAPE) -> MToV:
    """With random numbers for the weights that start at zero."""
    torch.manual_seed(0)
    mtov = MToV(config, shape, CHANNELS).eval()
    for parameter in mtov.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return mtov


def inputs(shape: PlaneShape = SHAPE, batch: int = 2) -> list[Tensor]:
    """zt, t, landmark, pose, identity."""
    g = torch.Generator().manual_seed(1)
    zt, *conditions = (torch.randn(batch, CHANNELS, shape.cells, generator=g) for _ in range(4))
    return [zt, torch.randint(0, 1000, (batch,), generator=g), *conditions]


@torch.no_grad()
@pytest.mark.parametrize("shape", [PlaneShape(16, 9, 16), PlaneShape(7, 5, 3), PlaneShape(1, 1, 2)], ids=str)
def test_planes_of_any_size(shape: PlaneShape) -> None:
    z0 = build(shape=shape)(*inputs(shape))
    assert z0.shape == (2, CHANNELS, shape.cells)
    assert z0.isfinite().all()


def test_every_parameter_gets_a_gradient() -> None:
    mtov = build()
    mtov(*inputs()).square().sum().backward()
    for name, parameter in mtov.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_a_new_network_says_nothing() -> None:
    """Its last convolution starts at zero, so that training starts from the mean."""
    assert not MToV(SMALL, SHAPE, CHANNELS)(*inputs()).any()


@torch.no_grad()
def test_batch_is_its_samples() -> None:
    mtov, batch = build(), inputs()
    both = mtov(*batch)
    for i in range(2):
        assert torch.allclose(mtov(*(x[i : i + 1] for x in batch)), both[i : i + 1], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("argument", range(5), ids=["zt", "t", "landmark", "pose", "identity"])
def test_each_input_is_heard(argument: int) -> None:
    mtov, batch = build(), inputs()
    other = list(batch)
    other[argument] = batch[argument] + 1
    assert not torch.allclose(mtov(*batch), mtov(*other), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("planes", ["all", "hw"])
def test_identity_planes(planes: str) -> None:
    """The paper conditions on all three planes of the identity, the released code on hw alone."""
    mtov, batch = build(replace(SMALL, identity_planes=planes)), inputs()
    hw, ws, hs = SHAPE.split(batch[4])
    other = SHAPE.join((hw, ws + 1, hs - 1))
    assert torch.equal(mtov(*batch), mtov(*batch[:4], other)) is (planes == "hw")
    other = SHAPE.join((hw + 1, ws, hs))
    assert not torch.equal(mtov(*batch), mtov(*batch[:4], other))


@torch.no_grad()
def test_planes_speak_with_each_other() -> None:
    mtov, batch = build(), inputs()
    hw, ws, hs = SHAPE.split(batch[0])
    moved = mtov(SHAPE.join((hw, ws, hs + 1)), *batch[1:])
    for before, after in zip(SHAPE.split(mtov(*batch)), SHAPE.split(moved), strict=True):
        assert (before - after).abs().max() > 1e-3


@pytest.mark.parametrize("preset", ["tiny", "paper", "released"])
def test_presets_build(preset: str) -> None:
    """At their full sizes, without memory for the weights."""
    config = load(preset)
    channels = config.autoencoder.plane_channels
    with torch.device("meta"):
        mtov = MToV(config.mtov, plane_shape(config.autoencoder), channels)
    assert mtov.input.in_channels == 4 * channels


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "paper", "released"])
def test_presets_run(preset: str) -> None:
    config = load(preset)
    shape, channels = plane_shape(config.autoencoder), config.autoencoder.plane_channels
    with torch.device("meta"):
        mtov, z = MToV(config.mtov, shape, channels), torch.zeros(1, channels, shape.cells)
        assert mtov(z, torch.zeros(1, dtype=torch.long), z, z, z).shape == z.shape
