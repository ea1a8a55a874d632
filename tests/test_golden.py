"""The networks under preset ``released`` give the authors' numbers: max|a - b| / max|b| <= 1e-4.

The authors' vectors are large and lie outside the repository. Beside them, `golden.json` holds a few of the
numbers that the same networks gave on the day when they agreed with the authors', for weights that a formula
gives: a fresh clone notices a network that changed.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from moditalker.config import AtomConfig, AutoencoderConfig, MToVConfig
from moditalker.motion.atom import Atom
from moditalker.talker.convert import convert_atom, convert_autoencoder, convert_unet
from moditalker.video.autoencoder import Autoencoder
from moditalker.video.mtov import MToV
from moditalker.video.triplane import PlaneShape

SHARED = Path(os.environ.get("MODITALKER_SHARED", Path(__file__).parents[2] / "shared"))


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    path = SHARED / "golden" / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"{path} is not here: set MODITALKER_SHARED to the folder that holds golden/")
    tensors = load_file(path)
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    return state, {k: v for k, v in tensors.items() if not k.startswith("state.")}


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def test_atom() -> None:
    state, numbers = golden("atom_motion_decoder")
    config = AtomConfig(width=64, heads=4, feed_forward=96, layers=2, frames=12, audio_to_upper=True)
    atom = Atom(config, speech_width=40).eval()
    converted, dropped = convert_atom(state)
    atom.load_state_dict(converted)
    xt, t, speech, l_id = (numbers[f"in.{key}"] for key in ("x_t", "t", "audio", "l_id"))

    conditional = atom(xt, t, speech, l_id)
    unconditional = atom(xt, t, speech, l_id, torch.ones(2, dtype=torch.bool))
    assert error(conditional, numbers["out.cond"]) <= 1e-4
    assert error(unconditional, numbers["out.uncond"]) <= 1e-4
    guided = unconditional + 2 * (conditional - unconditional)
    assert error(guided, numbers["out.guided_w2"]) <= 1e-4
    assert all(
        name.startswith(("pos_", "non_attn_pos", "face_mlp", "to_face_", "input_projection."))
        or name.endswith(".freqs")
        or ".linear" in name
        for name in dropped
    )


@torch.no_grad()
def test_unet() -> None:
    state, numbers = golden("mtov_unet")
    config = MToVConfig(
        channels=32, multipliers=(1, 2), blocks=1, attention=(1, 2), heads=4, identity_planes="hw"
    )
    shape = PlaneShape(frames=16, height=32, width=32)
    mtov = MToV(config, shape, plane_channels=4).eval()
    converted, dropped = convert_unet(state)
    mtov.load_state_dict(converted)
    landmark, pose = numbers["in.cond_landmark_pose"].chunk(2, dim=1)
    identity = torch.randn(2, 4, shape.cells)
    identity[..., : 32 * 32] = numbers["in.identity_xy"]
    prediction = mtov(numbers["in.z_t"], numbers["in.t"], landmark, pose, identity)
    assert error(prediction, numbers["out.prediction"]) <= 1e-4
    assert all(name.startswith("output_bg_") for name in dropped)


@pytest.mark.slow
@torch.no_grad()
def test_autoencoder() -> None:
    state, numbers = golden("mtov_triplane_autoencoder")
    autoencoder = Autoencoder(AutoencoderConfig(dim=32)).eval()
    converted, dropped = convert_autoencoder(state)
    autoencoder.load_state_dict(converted)
    video = numbers["in.video_u8"].float() / 127.5 - 1
    planes = autoencoder.encode(video)
    assert error(planes, numbers["out.planes"]) <= 1e-4
    decoded = autoencoder.decode(planes)[0].transpose(0, 1)  # S 3 H W
    assert error(decoded[..., ::4, ::4], numbers["out.video_every4"]) <= 1e-4
    assert set(dropped) == {"coords"} | {
        f"{part}.{table}"
        for part in ("encoder", "decoder")
        for table in ("frame_rot_emb.inv_freqs", "image_rot_emb.scales")
    }


def by_formula(shape: torch.Size | tuple[int, ...], number: int, size: float = 1.0) -> Tensor:
    """Numbers that look random and are the same on every machine."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (size * torch.sin(1.7 * number + 12.9898 * steps + 0.01 * steps**2)).float().reshape(tuple(shape))


@torch.no_grad()
def small_networks() -> dict[str, list[float]]:
    """Twelve numbers of what each network makes, at a size that takes a moment."""
    atom = Atom(AtomConfig(width=32, heads=4, feed_forward=32, layers=2, frames=8, audio_to_upper=True), 12)
    mtov = MToV(
        MToVConfig(
            channels=32, multipliers=(1, 2), blocks=1, attention=(1, 2), heads=4, identity_planes="hw"
        ),
        PlaneShape(frames=4, height=4, width=8),
        plane_channels=4,
    )
    autoencoder = Autoencoder(
        AutoencoderConfig(
            frames=4, height=16, width=32, dim=32, heads=2, head_dim=16, encoder_layers=1, decoder_layers=1
        )
    )
    for network in (atom, mtov, autoencoder):
        for number, weights in enumerate(network.eval().parameters()):
            weights.copy_(by_formula(weights.shape, number, 0.2))
    planes = (1, 4, mtov.shape.cells)
    encoded = autoencoder.encode(by_formula((1, 3, 4, 16, 32), 1))
    t = torch.tensor([300])
    made = {
        "atom": atom(by_formula((1, 8, 204), 1), t, by_formula((1, 16, 12), 2), by_formula((1, 204), 3)),
        "mtov": mtov(by_formula(planes, 1), t, *(by_formula(planes, number) for number in (2, 3, 4))),
        "planes": encoded,
        "video": autoencoder.decode(by_formula(encoded.shape, 2)),
    }
    return {name: x.flatten()[:: max(1, x.numel() // 12)][:12].tolist() for name, x in made.items()}


def test_small_networks_keep_their_numbers() -> None:
    known = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))
    for name, numbers in small_networks().items():
        assert error(torch.tensor(numbers), torch.tensor(known[name])) <= 1e-4
