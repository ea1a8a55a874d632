"""The settings that a model's weights carry: each stage's from its own file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moditalker import config as configuration
from moditalker.config import Config
from moditalker.weights.files import describe
from moditalker.weights.named import model_folder


def carried(weights: Path) -> Config:
    """The settings that one file of weights was trained with. Raises UserError where it cannot be read."""
    return configuration.from_dict(describe(weights)["config"])


def joined(picture: Config, motion: Config) -> Config:
    """One configuration of two: what makes speech features and motion from the second, all else the first."""
    return replace(picture, speech=motion.speech, atom=motion.atom, atom_diffusion=motion.atom_diffusion)


def model_settings(model: str | Path) -> Config:
    """What a model runs with, by its name or folder. Raises UserError where there is none."""
    folder = model_folder(model)
    motion, pictures = carried(folder / "atom.safetensors"), folder / "mtov.safetensors"
    return joined(carried(pictures), motion) if pictures.exists() else motion
