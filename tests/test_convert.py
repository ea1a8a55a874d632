"""The authors' names to ours, and reading files that nobody vouches for."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moditalker.config import AtomConfig, AutoencoderConfig, MToVConfig
from moditalker.convert import convert_atom, convert_autoencoder, convert_unet, read_checkpoint
from moditalker.errors import UserError
from moditalker.motion.atom import Atom
from moditalker.video.autoencoder import Autoencoder, plane_shape
from moditalker.video.mtov import MToV


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def layer(name: str, *shape: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.empty(shape), f"{name}.bias": torch.empty(shape[0])}


def conv(name: str, into: int, out: int, *kernel: int) -> dict[str, Tensor]:
    return layer(name, out, into, *kernel)


def norm(name: str, width: int) -> dict[str, Tensor]:
    return layer(name, width)


def unet_state(config: MToVConfig, plane_channels: int) -> dict[str, Tensor]:
    """Names and shapes of the authors' UNet of any size, as the ADM family lays its blocks out."""
    c = config.channels
    state = {**layer("time_embed.0", 4 * c, c), **layer("time_embed.2", 4 * c, 4 * c)}

    def residual(name: str, into: int, out: int) -> None:
        state.update(norm(f"{name}.in_layers.0", into) | conv(f"{name}.in_layers.2", into, out, 3, 3))
        state.update(layer(f"{name}.emb_layers.1", 2 * out, 4 * c) | norm(f"{name}.out_layers.0", out))
        state.update(conv(f"{name}.out_layers.3", out, out, 3, 3))
        if into != out:
            state.update(conv(f"{name}.skip_connection", into, out, 1, 1))

    def attention(name: str, width: int) -> None:
        state.update(norm(f"{name}.norm", width) | conv(f"{name}.qkv", width, 3 * width, 1))
        state.update(conv(f"{name}.proj_out", width, width, 1))

    state.update(conv("input_blocks.0.0", 4 * plane_channels, c * config.multipliers[0], 3, 3))
    channels, number, skips = c * config.multipliers[0], 1, [c * config.multipliers[0]]
    levels = len(config.multipliers)
    for level, multiplier in enumerate(config.multipliers):
        for _ in range(config.blocks):
            residual(f"input_blocks.{number}.0", channels, c * multiplier)
            channels = c * multiplier
            if 2**level in config.attention:
                attention(f"input_blocks.{number}.1", channels)
            attention(f"input_attns.{number}", channels)
            skips.append(channels)
            number += 1
        if level < levels - 1:
            residual(f"input_blocks.{number}.0", channels, channels)
            attention(f"input_attns.{number}", channels)
            skips.append(channels)
            number += 1
    residual("middle_block.0", channels, channels)
    attention("middle_block.1", channels)
    residual("middle_block.2", channels, channels)
    attention("mid_attn", channels)
    number = 0
    for level in reversed(range(levels)):
        for i in range(config.blocks + 1):
            width = c * config.multipliers[level]
            residual(f"output_blocks.{number}.0", channels + skips.pop(), width)
            channels, part = width, 1
            if 2**level in config.attention:
                attention(f"output_blocks.{number}.1", channels)
                part = 2
            if level and i == config.blocks:
                residual(f"output_blocks.{number}.{part}", channels, channels)
            attention(f"output_attns.{number}", channels)
            number += 1
    return state | norm("out.0", channels) | conv("out.2", channels, plane_channels, 3, 3)


@pytest.mark.parametrize(
    "config",
    [
        MToVConfig(channels=32, identity_planes="hw"),
        MToVConfig(channels=32, multipliers=(2, 1, 3), blocks=1, attention=(4,)),
        MToVConfig(channels=64, multipliers=(1,), blocks=3, attention=()),
    ],
    ids=["released", "attention low", "one level"],
)
def test_unet_of_any_size(config: MToVConfig) -> None:
    theirs = unet_state(config, 4)
    dead = {f"output_bg_blocks.{name}": tensor for name, tensor in layer("0.0.out_layers.3", 2).items()}
    ours = MToV(config, plane_shape(AutoencoderConfig()), 4)
    converted, dropped = convert_unet(
        {f"diffusion_model.{name}": tensor for name, tensor in (theirs | dead).items()}
    )
    assert shapes(converted) == shapes(ours.state_dict())
    assert dropped == list(dead)


def test_atom_names() -> None:
    """Packed projections come apart in the order query, key, value."""
    packed = torch.arange(12.0)[:, None].expand(12, 4)
    converted, dropped = convert_atom(
        {
            "seqTransDecoder.stack.3.multihead_attn.in_proj_weight": packed,
            "seqTransDecoder.stack.3.multihead_attn.out_proj.bias": torch.ones(4),
            "seqTransDecoder.stack.10.linear3.bias": torch.ones(8),
            "seqTransDecoder.stack.10.linear2.bias": torch.ones(4),
            "null_cond_hidden": torch.zeros(1, 4),
            "somebody.elses": torch.zeros(1),
        }
    )
    assert {name: tensor.flatten()[0].item() for name, tensor in converted.items()} == {
        "blocks.3.cross_attention.query.weight": 0,
        "blocks.3.cross_attention.key.weight": 4,
        "blocks.3.cross_attention.value.weight": 8,
        "blocks.3.cross_attention.out.bias": 1,
        "blocks.10.out.bias": 1,
        "null_speech_vector": 0,
    }
    assert dropped == ["seqTransDecoder.stack.10.linear2.bias", "somebody.elses"]


def test_what_is_missing_is_noticed() -> None:
    atom = Atom(AtomConfig(width=16, layers=1, heads=2, frames=4), 8)
    autoencoder = Autoencoder(
        AutoencoderConfig(dim=16, encoder_layers=1, decoder_layers=1, collapse_layers=1)
    )
    for model, converted in ((atom, convert_atom({})), (autoencoder, convert_autoencoder({}))):
        with pytest.raises(RuntimeError, match="Missing key"):
            model.load_state_dict(converted.state)


def test_read_nested_and_wrapped(tmp_path: Path) -> None:
    weight = torch.randn(2, 3)
    contents = (
        {"model_state_dict": {"a.weight": weight}, "optimizer_state_dict": {"step": 5}},
        {"diffusion_model.a.weight": weight, "epoch": 3},
        {"state_dict": {"module.diffusion_model.a.weight": weight}},
    )
    for content in contents:
        torch.save(content, tmp_path / "theirs.pt")
        state = read_checkpoint(tmp_path / "theirs.pt")
        assert list(state) == ["a.weight"]
        assert torch.equal(state["a.weight"], weight)


class Trap:
    """Pickled code: opening it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    for save in (lambda c, p: torch.save(c, p), lambda c, p: p.write_bytes(pickle.dumps(c))):
        save({"a": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
        with pytest.raises(UserError, match="not a file of plain tensors"):
            read_checkpoint(tmp_path / "trap.pt")
        assert not (tmp_path / "sprung").exists()


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pt"
    with pytest.raises(UserError, match="does not exist"):
        read_checkpoint(path)
    with pytest.raises(UserError, match="not a file of plain tensors"):
        read_checkpoint(tmp_path)
    torch.save({"a": torch.zeros(1000)}, path)
    half = path.read_bytes()[:2000]
    for content in (b"", b"hello", half):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a file of plain tensors"):
            read_checkpoint(path)
    for nothing in ({}, [1, 2], {"epoch": 3}, {"model_state_dict": {"step": 1}}):
        torch.save(nothing, path)
        with pytest.raises(UserError, match="holds no tensors"):
            read_checkpoint(path)
