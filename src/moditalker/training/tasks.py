"""From prepared clips on disk to a training task, by its name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moditalker.checkpoint import load_weights
from moditalker.config import Config, TrainingConfig
from moditalker.data import VideoClip, VideoClips, read_clip
from moditalker.errors import UserError
from moditalker.features.speech import SpeechEncoder, load_speech_encoder
from moditalker.training.atom import AtomTask
from moditalker.training.autoencoder import AutoencoderTask, LandmarkAutoencoderTask
from moditalker.training.distillation import DistillationTask
from moditalker.training.loop import Task
from moditalker.training.mtov import MToVTask
from moditalker.training.recordings import (
    MotionClip,
    Recording,
    load_recordings,
    make_recordings,
    read_motion_clip,
    save_recordings,
)
from moditalker.weights import sha256

RECORDINGS = 640  # of about ten seconds, beside the clips as they are


@dataclass(frozen=True)
class Data:
    """Prepared clips, one file each, named ``speaker_clip``."""

    train: list[Path]
    validation: list[Path]

    def digest(self) -> str:
        """SHA-256 of all names and contents."""
        listed = [f"{part} {path.name} {sha256(path)}" for part, path in self._each()]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()

    def _each(self) -> list[tuple[str, Path]]:
        return [("train", path) for path in self.train] + [("val", path) for path in self.validation]


def find_data(folder: Path, split: Path | None = None, held_out: frozenset[str] = frozenset()) -> Data:
    """Which prepared clips of a folder train and which validate.

    Args:
        split: JSON with lists ``train`` and ``val`` of "speaker/clip.ext"; without one, a clip in ten,
            chosen by its name, validates.
        held_out: speakers whose clips validate wherever they are listed.

    Raises:
        UserError: the split cannot be read, or one of the parts is empty.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    if split is None:
        parts = {name: "val" if _chance(name) < 0.1 else "train" for name in files}
    else:
        try:
            listed = json.loads(split.read_text(encoding="utf-8"))
            parts = {
                "_".join(Path(entry).with_suffix("").parts): part
                for part in ("train", "val")
                for entry in listed[part]
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'{split}: not a split ({error}); JSON with "train" and "val" is expected'
            ) from error
    chosen: dict[str, list[Path]] = {"train": [], "val": []}
    for name, part in parts.items():
        if name in files:
            chosen["val" if name.rsplit("_", 1)[0] in held_out else part].append(files[name])
    if not chosen["train"] or not chosen["val"]:
        raise UserError(
            f"{folder}: {len(chosen['train'])} clips to train on and {len(chosen['val'])} to validate on; "
            "both are needed: prepare more videos, or give another --split"
        )
    return Data(chosen["train"], chosen["val"])


def _chance(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def build(
    name: str,
    config: Config,
    data: Data,
    run: Path,
    autoencoder: Path | None = None,
    landmark_autoencoder: Path | None = None,
    start_from: Path | None = None,
    log: Callable[[str], None] = print,
) -> tuple[Task, TrainingConfig]:
    """A task and how it is trained.

    Args:
        name: "autoencoder", "landmark-autoencoder", "mtov", "distillation" or "atom".
        run: its folder, where AToM's recordings are kept once they are made.
        autoencoder, landmark_autoencoder: runs that ``mtov`` starts from; the first is needed.
        start_from: weights (.safetensors) of the same part to go on from; ``mtov`` then needs no
            autoencoder. ``distillation`` needs those of ``mtov``.

    Raises:
        UserError: clips that cannot be read or lack sound, no autoencoder, weights of another shape.
    """
    sections = {
        "atom": config.atom_training,
        "mtov": config.mtov_training,
        "distillation": config.distillation_training,
    }
    training = sections.get(name, config.autoencoder_training)
    torch.manual_seed(training.seed)  # of the weights that it starts with
    state = None if start_from is None else load_weights(start_from)[0]
    task = _task(name, config, data, run, autoencoder, landmark_autoencoder, state, log)
    if state is not None:
        try:
            task.model.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"{start_from}: weights of another part or size ({error})") from error
    return task, training


def _task(
    name: str,
    config: Config,
    data: Data,
    run: Path,
    autoencoder: Path | None,
    landmark_autoencoder: Path | None,
    state: dict[str, Tensor] | None,
    log: Callable[[str], None],
) -> Task:
    if name == "atom":
        return _atom(config, data, run, log)
    encoder = load_speech_encoder(config.speech) if "audio" in config.mtov.conditions else None
    train, validation = (
        VideoClips([_heard(read_clip(path), path, encoder) for path in part], config.crop, config.autoencoder)
        for part in (data.train, data.validation)
    )
    if name == "autoencoder":
        return AutoencoderTask(config, train, validation)
    if name == "landmark-autoencoder":
        return LandmarkAutoencoderTask(config, train, validation)
    if name == "distillation":
        if state is None:
            raise UserError("distillation needs the model to distil: --start-from mtov.safetensors")
        return DistillationTask(config, train, validation, state)
    if autoencoder is None and state is None:
        raise UserError(
            "mtov works on an autoencoder's planes: train it first and give its run, --autoencoder RUN"
        )
    return MToVTask(config, train, validation, autoencoder, landmark_autoencoder)


def _heard(clip: VideoClip, path: Path, encoder: SpeechEncoder | None) -> VideoClip:
    """With the speech features that go with its frames, where there is an encoder for them."""
    if encoder is None:
        return clip
    speech = encoder(read_motion_clip(path).waveform)[: 2 * len(clip.crops)]
    missing = 2 * len(clip.crops) - len(speech)
    return replace(clip, speech=np.pad(speech, ((0, missing), (0, 0)), "edge").astype(np.float16))


def _atom(config: Config, data: Data, run: Path, log: Callable[[str], None]) -> AtomTask:
    encoder = load_speech_encoder(config.speech)
    clips, validation = ([read_motion_clip(path) for path in part] for part in (data.train, data.validation))
    kept = run / "recordings.safetensors"
    if not kept.exists():
        log(f"atom: making {RECORDINGS} recordings out of {len(clips)} clips, once")
        made = make_recordings(clips, encoder, RECORDINGS, config.atom_training.seed)
        save_recordings([*made, *(plain_recording(clip, encoder) for clip in clips)], kept)
    groups: dict[str, list[MotionClip]] = {}
    for clip in validation:
        groups.setdefault(clip.speaker, []).append(clip)
    return AtomTask(
        config,
        load_recordings(kept),
        clips,
        {speaker: members[:10] for speaker, members in groups.items()},
        encoder,
        config.atom_training.batch,
    )


def plain_recording(clip: MotionClip, encoder: SpeechEncoder) -> Recording:
    """A clip as it is."""
    speech = encoder(clip.waveform)
    frames = min(len(clip.landmarks), len(speech) // 2)
    return Recording(clip.speaker, clip.landmarks[:frames], speech[: 2 * frames].astype(np.float16))
