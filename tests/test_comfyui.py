"""The node of integrations/comfyui, loaded and run as ComfyUI does."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moditalker.errors import UserError
from moditalker.media import AudioReader, read_clip
from moditalker.weights.named import PORTRAIT, SENTENCE

FOLDER = Path(__file__).parents[1] / "integrations" / "comfyui"


class Bar:
    """In place of comfy.utils.ProgressBar."""

    seen: list[tuple[int, int]] = []  # noqa: RUF012

    def __init__(self, total: int) -> None:
        pass

    def update_absolute(self, value: int, total: int | None = None) -> None:
        self.seen.append((value, total or 0))


@pytest.fixture(scope="module")
def node() -> type:
    """The class, found as ComfyUI finds it: a folder with any name that has NODE_CLASS_MAPPINGS."""
    name = "custom_nodes_moditalker"
    spec = importlib.util.spec_from_file_location(
        name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)
    (found,) = module.NODE_CLASS_MAPPINGS.values()
    return found


@pytest.fixture(scope="module")
def sound() -> dict[str, Any]:
    """A second of speech in two channels, as the node "Load Audio" gives it."""
    speech = torch.from_numpy(AudioReader(SENTENCE).read(1.0))
    return {"waveform": speech.expand(1, 2, -1), "sample_rate": 16_000}


def run(node: type, **inputs: Any) -> Any:
    """What ComfyUI does: required inputs by their names, and the others' defaults if they have any."""
    known = node.INPUT_TYPES()
    given = {name: kind[1]["default"] for name, kind in known["required"].items() if "default" in kind[-1]}
    given |= inputs
    assert set(known["required"]) <= set(given)
    made = getattr(node(), node.FUNCTION)(**given)
    assert len(made) == len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    return made


def test_a_portrait_becomes_a_batch_and_the_bar_moves(node, sound, monkeypatch):
    comfy = types.ModuleType("comfy.utils")
    comfy.ProgressBar = Bar
    monkeypatch.setitem(sys.modules, "comfy", types.ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "comfy.utils", comfy)
    picture = np.asarray(Image.open(PORTRAIT).convert("RGB").resize((256, 256)), np.float32) / 255
    images, audio, fps = run(node, images=torch.from_numpy(picture)[None], audio=sound)
    assert images.shape == (25, 256, 256, 3)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < 0.2 < 0.8 < images.max() <= 1
    assert audio is sound
    assert fps == 25
    assert (images[0] - images[12]).abs().max() > 0.1  # it moves
    assert Bar.seen[-1] == (25, 25)


def test_a_batch_keeps_its_frames_and_its_rate(node, sound, face_video):
    frames = read_clip(face_video).frames
    batch = torch.from_numpy(frames.astype(np.float32) / 255)
    images, _, fps = run(node, images=batch, audio=sound, fps=20.0, extend="none", speaker="0")
    assert images.shape == batch.shape
    assert fps == 20
    assert torch.equal(images[10], batch[10])  # no face, so it stays
    assert not torch.equal(images[2], batch[2])
    assert torch.equal(images[2][:60], batch[2][:60])  # above the mouth


def test_images_without_a_face_are_a_sentence(node, sound):
    with pytest.raises(UserError, match="face"):
        run(node, images=torch.zeros(1, 64, 64, 3), audio=sound)
