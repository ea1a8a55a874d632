"""The networks under preset ``released`` give the authors' numbers: max|a - b| / max|b| <= 1e-4."""

from __future__ import annotations

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
