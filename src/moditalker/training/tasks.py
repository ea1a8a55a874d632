"""From a dataset on disk to a training task, by its name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as short

import numpy as np
import torch
from torch import Tensor

from moditalker.checkpoint import fill, load_weights
from moditalker.config import Config, TrainingConfig, to_dict
from moditalker.data import VideoClip, VideoClips, read_clip
from moditalker.errors import UserError
from moditalker.features.speech import SpeechEncoder, load_speech_encoder
from moditalker.shards import Sample, Split, open_dataset
from moditalker.training.atom import AtomTask, EstimateTask
from moditalker.training.autoencoder import AutoencoderTask, LandmarkAutoencoderTask
from moditalker.training.distillation import DistillationTask
from moditalker.training.loop import CHECKPOINT, Task, fit
from moditalker.training.mtov import MToVTask
from moditalker.training.processes import Processes
from moditalker.training.recordings import MotionClip, plain_recording, read_motion_clip
from moditalker.training.recordings_folder import RecordingsFolder
from moditalker.training.sync_expert import ROOMS, SyncExpertTask, read_sync_clip

JUDGED = 32  # speakers, at most, whose clips validate: they are held in memory


@dataclass(frozen=True)
class Data:
    """The samples to train on and those to validate on; entries of the split that name no video of them."""

    train: list[Sample]
    validation: list[Sample]
    unmatched: tuple[str, ...] = ()

    def digest(self) -> str:
        """SHA-256 of all names, and of the checksums that their contents had when they were written."""
        parts = {"train": self.train, "val": self.validation}
        listed = [
            f"{part} {sample.name} {sample.sha256}" for part, group in parts.items() for sample in group
        ]
        return hashlib.sha256("\n".join(listed).encode("utf-8", "surrogateescape")).hexdigest()


def parse_speakers(text: str) -> frozenset[str]:
    """Speakers' names, separated by commas."""
    return frozenset(name.strip() for name in text.split(",")) - {""}


def find_data(folder: Path, split: Path | None = None, held_out: frozenset[str] = frozenset()) -> Data:
    """Which samples of a dataset train and which validate.

    Args:
        split: as for `prepare`, whose own split it replaces; of its parts "train" and "val" are used.
            Without a "val" anywhere, one video in ten of those for training, chosen by its name, validates.
        held_out: speakers whose samples validate wherever they are listed.

    Raises:
        UserError: no dataset, or a split that cannot be read; one of the parts is empty; no such speaker.
    """
    samples = open_dataset(folder)
    speakers = {sample.speaker for sample in samples}
    if strangers := held_out - speakers:
        raise UserError(
            f"{folder}: there is no speaker {', '.join(sorted(strangers))} to hold out; "
            f"there are {short(sorted(speakers))}"
        )
    listed = Split(split) if split is not None else None
    parts = [listed.part(sample.video) if listed else sample.split or "train" for sample in samples]
    unmatched: list[str] = []
    if listed is not None:
        listed.check(sample.video for sample in samples)
        unmatched = listed.unmatched(sample.video for sample in samples)
    drawn = "val" not in (listed.parts if listed else parts)
    chosen: dict[str, list[Sample]] = {"train": [], "val": []}
    for sample, part in zip(samples, parts, strict=True):
        if part == "train" and (sample.speaker in held_out or (drawn and chance(sample.video) < 0.1)):
            part = "val"
        if part in chosen:
            chosen[part].append(sample)
    if not chosen["train"] or not chosen["val"]:
        raise UserError(
            f"{folder}: {len(chosen['train'])} samples to train on and {len(chosen['val'])} to validate on; "
            "both are needed: prepare more videos, or give another --split"
        )
    judges = judged(sample.speaker for sample in chosen["val"])
    validation = [sample for sample in chosen["val"] if sample.speaker in judges]
    return Data(chosen["train"], validation, tuple(unmatched))


def chance(name: str) -> float:
    """A number in [0, 1) that is as good as random, and always the same for a name."""
    content = name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "big") / 2**32


def judged(speakers: Iterable[str]) -> set[str]:
    """The speakers to validate on, no more than `JUDGED` of them: the same ones in each run."""
    return set(sorted(set(speakers), key=lambda speaker: (chance(speaker), speaker))[:JUDGED])


def build(
    name: str,
    config: Config,
    data: Data,
    run: Path,
    autoencoder: Path | None = None,
    landmark_autoencoder: Path | None = None,
    start_from: Path | None = None,
    log: Callable[[str], None] = print,
    processes: Processes | None = None,
) -> tuple[Task, TrainingConfig]:
    """A task and how it is trained.

    Args:
        name: "autoencoder", "landmark-autoencoder", "mtov", "distillation", "atom" or "sync-expert".
        run: its folder, where AToM's recordings are kept once they are made.
        autoencoder, landmark_autoencoder: runs that ``mtov`` starts from; the first is needed.
        start_from: weights (.safetensors) of the same part to go on from; ``mtov`` then needs no
            autoencoder. ``distillation`` needs those of ``mtov``.
        processes: that train together; what is made once is made by their main one.

    Raises:
        UserError: samples of other crops or without sound, no autoencoder, weights of another shape.
    """
    for sample in [*data.train, *data.validation]:
        check_sample(sample, config)
    sections = {
        "atom": config.atom_training,
        "mtov": config.mtov_training,
        "distillation": config.distillation_training,
        "sync-expert": config.sync_expert_training,
    }
    training = sections.get(name, config.autoencoder_training)
    torch.manual_seed(training.seed)  # of the weights that it starts with
    state = None if start_from is None else load_weights(start_from)[0]
    task = _task(
        name, config, data, run, autoencoder, landmark_autoencoder, state, log, processes or Processes()
    )
    if state is not None and start_from is not None:
        fill(task.model, state, start_from)
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
    processes: Processes,
) -> Task:
    if name == "atom":
        return _atom(config, data, run, log, processes)
    if name == "sync-expert":
        return _sync_expert(config, data, log)
    encoder = load_speech_encoder(config.speech) if "audio" in config.mtov.conditions else None
    train, validation = (
        VideoClips(
            [_heard(sample, encoder) for sample in part],
            config.crop,
            config.autoencoder,
            config.augmentation,
        )
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


def _heard(sample: Sample, encoder: SpeechEncoder | None) -> VideoClip:
    """With the speech features that go with its frames, where there is an encoder for them."""
    clip = read_clip(sample)
    if encoder is None:
        return clip
    speech = encoder(sample["audio"].astype(np.float32))[: 2 * len(clip.crops)]
    missing = 2 * len(clip.crops) - len(speech)
    return replace(clip, speech=np.pad(speech, ((0, missing), (0, 0)), "edge").astype(np.float16))


def check_sample(sample: Sample, config: Config) -> None:
    """Raise UserError where a sample was made for other crops than the config has."""
    crop = to_dict(config)["crop"]
    if sample.about.get("crop", crop) != crop:
        raise UserError(
            f"{sample.name}: prepared with crop {sample.about['crop']}, preset {config.preset} has {crop}; "
            "prepare the videos for it"
        )


def _atom(
    config: Config, data: Data, run: Path, log: Callable[[str], None], processes: Processes
) -> AtomTask:
    log(
        f"atom: reading landmarks and sound of {len(data.train)} samples to train on, "
        f"{len(data.validation)} to validate on"
    )
    encoder, seed = load_speech_encoder(config.speech), config.atom_training.seed
    clips, validation = (
        [read_motion_clip(sample) for sample in part if "audio" in sample]
        for part in (data.train, data.validation)
    )
    if not clips or not validation:
        raise UserError(
            f"{len(clips)} samples to train on and {len(validation)} to validate on have sound; "
            "both are needed: prepare videos with speech"
        )
    made_of = {
        "data": data.digest(),
        "speech": to_dict(config)["speech"],
        "recordings": to_dict(config)["atom_recordings"],
        "seed": seed,
    }
    folder = RecordingsFolder(run / "recordings", json.dumps(made_of, sort_keys=True))
    if processes.main:
        if folder.other() and (run / CHECKPOINT).exists():
            raise UserError(
                f"{folder.path}: made of other data, speech features, settings or seed than are given now; "
                "give those of the run, or choose another folder"
            )
        folder.make(clips, encoder, config.atom_recordings, seed, log)
    processes.wait()
    groups: dict[str, list[MotionClip]] = {}
    for clip in validation:
        groups.setdefault(clip.speaker, []).append(clip)
    task = AtomTask(
        config,
        [*folder.load(), *(plain_recording(clip, encoder) for clip in clips)],
        clips,
        {speaker: members[:10] for speaker, members in groups.items()},
        encoder,
        config.atom_training.batch,
    )
    estimate = task.model.first_estimate
    if estimate is not None and config.atom.estimate_layers:
        if (
            fit(EstimateTask(task, estimate), config.estimate_training, run / "estimate", log, processes)
            is None
        ):
            raise UserError(f"{run}: stopped while the first estimate was trained; go on by --resume")
        estimate.requires_grad_(False)
    return task


def _sync_expert(config: Config, data: Data, log: Callable[[str], None]) -> SyncExpertTask:
    encoder, seed = load_speech_encoder(config.speech), config.sync_expert_training.seed
    log(f"sync-expert: hearing {len(data.train)} clips in {1 + ROOMS} rooms")
    train, validation = (
        [read_sync_clip(sample, config, encoder, rooms, seed) for sample in part if "audio" in sample]
        for part, rooms in ((data.train, ROOMS), (data.validation, 0))
    )
    return SyncExpertTask(config, train, validation)
