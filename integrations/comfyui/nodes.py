"""A node: a batch of images and an audio become a batch of images whose face says it, and the audio."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moditalker import MoDiTalker, Options, Style
from moditalker.media import Frame, VideoWriter, plain_info
from moditalker.talker.options import parse_choice

Audio = dict[str, Any]  # {"waveform": (B, C, N) floats in [-1, 1], "sample_rate": int}


class LipSync:
    """One image is a portrait, whose head then moves; several are the frames of a video."""

    CATEGORY = "video/lip sync"
    DESCRIPTION = (
        "The face in the images says the audio, by MoDiTalker, on the processor. Images carry a mark."
    )
    FUNCTION = "speak"
    RETURN_TYPES = ("IMAGE", "AUDIO", "FLOAT")
    RETURN_NAMES = ("images", "audio", "fps")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, ...]]]:
        factor = {"default": 1.0, "min": 0.0, "max": 5.0, "step": 0.05}
        model = {
            "default": "tiny",
            "tooltip": "A model of moditalker, a folder of weights, or hf://USER/REPO.",
        }
        return {
            "required": {
                "images": ("IMAGE",),
                "audio": ("AUDIO",),
                "fps": ("FLOAT", {"default": 25.0, "min": 1.0, "max": 120.0, "step": 0.01}),
                "model": ("STRING", model),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**32 - 1}),
            },
            "optional": {
                "extend": (["pingpong", "loop", "hold", "none"],),
                "speaker": (
                    "STRING",
                    {"default": "largest", "tooltip": "largest, speaker, 0, 1, ... or x,y."},
                ),
                "head": (["idle", "still"], {"tooltip": "How the head of a single image moves."}),
                "mouth_gain": ("FLOAT", factor),
                "expression": ("FLOAT", factor),
            },
        }

    def speak(
        self,
        images: torch.Tensor,
        audio: Audio,
        fps: float,
        model: str,
        seed: int,
        extend: str = "pingpong",
        speaker: str = "largest",
        head: str = "idle",
        mouth_gain: float = 1.0,
        expression: float = 1.0,
    ) -> tuple[torch.Tensor, Audio, float]:
        """Images (B, H, W, 3) floats in [0, 1] -> images (F, H, W, 3) for as long as the audio lasts."""
        pixels = np.ascontiguousarray(
            (images[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        )
        sound = audio["waveform"][0].mean(0).float().cpu().numpy()
        options = Options(
            seed=seed,
            extend=extend,
            choose=parse_choice(speaker),
            head=head,
            style=Style(mouth_gain, expression),
        )
        with tempfile.TemporaryDirectory() as folder:
            face = pixels[0] if len(pixels) == 1 else written(Path(folder, "face.mkv"), pixels, fps)
            video = loaded(model).generate(
                face, sound, options, rate=audio["sample_rate"], progress=progress_bar()
            )
            made = [torch.from_numpy(image.astype(np.float32) / 255) for _, image in video]
            return torch.stack(made), audio, float(video.face.source.info.fps)


@lru_cache(maxsize=1)
def loaded(model: str) -> MoDiTalker:
    """The weights, kept from one run of a workflow to the next."""
    return MoDiTalker.from_pretrained(model)


def written(path: Path, pixels: np.ndarray, fps: float) -> Path:
    """Frames (B, H, W, 3) uint8 as a lossless video."""
    rate = Fraction(fps).limit_denominator(1001)
    with VideoWriter(path, plain_info(pixels.shape[2], pixels.shape[1], rate), lossless=True) as writer:
        for number, image in enumerate(pixels):
            writer.write(Frame(number, number / rate, 1 / rate, image))
    return path


def progress_bar() -> Callable[[str, int, int], None] | None:
    """ComfyUI's own bar, if it runs there; it also ends the work if its user does."""
    try:
        from comfy.utils import ProgressBar
    except ImportError:
        return None
    bar = ProgressBar(1)
    return lambda stage, done, total: bar.update_absolute(done, max(total, 1))
