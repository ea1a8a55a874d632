"""Builds a training task, by its name, from a dataset on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moditalker.config import Config, TrainingConfig, to_dict
from moditalker.data.clips import VideoClip, VideoClips, read_clip
from moditalker.data.parts import Data
from moditalker.data.recordings import MotionClip, plain_recording, read_motion_clip
from moditalker.data.recordings_folder import RecordingsFolder
from moditalker.data.shards import Sample
from moditalker.errors import UserError
from moditalker.features.speech.encoders import SpeechEncoder, load_speech_encoder
from moditalker.motion.atom import SPEECH_PER_FRAME
from moditalker.training.loop import Task, fit
from moditalker.training.processes import Processes
from moditalker.training.run import CHECKPOINT
from moditalker.training.tasks.atom import AtomTask, EstimateTask
from moditalker.training.tasks.autoencoder import AutoencoderTask, LandmarkAutoencoderTask
from moditalker.training.tasks.distillation import DistillationTask
from moditalker.training.tasks.mtov import MToVTask
from moditalker.training.tasks.sync_expert import ROOMS, SyncExpertTask, read_sync_clip
from moditalker.weights.files import fill, load_weights


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
    """Build a task and its training settings.

    Args:
        name: "autoencoder", "landmark-autoencoder", "mtov", "distillation", "atom" or "sync-expert".
        run: its folder, in which AToM's recordings are kept.
        autoencoder, landmark_autoencoder: runs that ``mtov`` starts from; the first is needed.
        start_from: weights (.safetensors) of the same part to start from; ``mtov`` then needs no
            autoencoder. ``distillation`` needs those of ``mtov``.
        processes: those that train together; their main one makes shared files.

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
    torch.manual_seed(training.seed)  # for the initial weights
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
    """The sample with the speech features of its frames, if there is an encoder for them."""
    clip = read_clip(sample)
    if encoder is None:
        return clip
    speech = encoder(sample["audio"].astype(np.float32))[: 2 * len(clip.crops)]
    missing = 2 * len(clip.crops) - len(speech)
    return replace(clip, speech=np.pad(speech, ((0, missing), (0, 0)), "edge").astype(np.float16))


def check_sample(sample: Sample, config: Config) -> None:
    """Raise UserError if a sample was made for other crops than the config's."""
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
                f"{folder.path}: made with other data, speech features, settings or seed; "
                "give the same again, or choose another folder"
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
            raise UserError(f"{run}: stopped while the first estimate was trained; resume with --resume")
        estimate.requires_grad_(False)
        if config.atom_loss.folds:
            task.estimates = cross_fitted(task, clips, encoder, run, log, processes)
    return task


def cross_fitted(
    task: AtomTask,
    clips: list[MotionClip],
    encoder: SpeechEncoder,
    run: Path,
    log: Callable[[str], None],
    processes: Processes,
) -> list[NDArray[np.float32]]:
    """Return, for each recording, the motion of a first estimate that was not trained on its speaker.

    People are split into ``atom_loss.folds`` parts; for each part one estimate is trained without it.

    Raises:
        UserError: fewer people than parts; a signal ended the training of one.
    """
    config, favoured = task.config, task.config.atom_recordings.favoured
    people = sorted({r.speaker for r in task.recordings}, key=lambda name: (name not in favoured, name))
    folds, moved = config.atom_loss.folds, dict[int, NDArray[np.float32]]()
    if not 2 <= folds <= len(people):
        raise UserError(
            f"atom_loss.folds = {folds}: {len(people)} people cannot be split so; give 2 to their number, "
            "or 0 for none"
        )
    for fold in range(folds):
        left = set(people[fold::folds])
        log(f"atom: a first estimate without {', '.join(sorted(left))}")
        part = AtomTask(
            config,
            [recording for recording in task.recordings if recording.speaker not in left],
            [clip for clip in clips if clip.speaker not in left],
            {},
            encoder,
            config.atom_training.batch,
        )
        estimate = part.model.first_estimate
        assert estimate is not None
        folder = run / f"estimate-{fold}"
        if fit(EstimateTask(part, estimate), config.estimate_training, folder, log, processes) is None:
            raise UserError(f"{run}: stopped while a first estimate was trained; resume with --resume")
        estimate.eval()
        for number, recording in enumerate(task.recordings):
            if recording.speaker in left:
                frames = SPEECH_PER_FRAME * len(recording.landmarks)
                heard = torch.from_numpy(recording.speech[:frames].astype(np.float32)).to(processes.device)
                with torch.inference_mode():
                    moved[number] = estimate.moved(heard[None])[0].cpu().numpy()
    return [moved[number] for number in range(len(task.recordings))]


def _sync_expert(config: Config, data: Data, log: Callable[[str], None]) -> SyncExpertTask:
    encoder, seed = load_speech_encoder(config.speech), config.sync_expert_training.seed
    log(f"sync-expert: hearing {len(data.train)} clips in {1 + ROOMS} rooms")
    train, validation = (
        [read_sync_clip(sample, config, encoder, rooms, seed) for sample in part if "audio" in sample]
        for part, rooms in ((data.train, ROOMS), (data.validation, 0))
    )
    return SyncExpertTask(config, train, validation)
