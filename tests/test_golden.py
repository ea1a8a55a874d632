"""The networks under preset ``released`` give the authors' numbers: max|a - b| / max|b| <= 1e-4."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from moditalker.config import AtomConfig
from moditalker.convert import convert_atom
from moditalker.motion.atom import Atom

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
