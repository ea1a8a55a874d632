"""One video -> its samples: stretches of one face, with landmarks, aligned crops and sound."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moditalker import config as configuration
from moditalker.config import Config
from moditalker.data.shards import add_sample, shard_writer
from moditalker.data.videos import RATE, Job, Record, at_rate
from moditalker.errors import UserError
from moditalker.features.face.identity import FaceFrame, Follower
from moditalker.features.face.shape import frontalize
from moditalker.features.face.tracker import FaceTracker
from moditalker.features.speech.encoders import FRAME
from moditalker.geometry.align import transform
from moditalker.geometry.points import lip_opening
from moditalker.jobs.files import appearing, disk_full_named
from moditalker.jobs.machine import one_thread
from moditalker.media import SAMPLE_RATE, AudioReader, VideoReader
from moditalker.metrics.offset import MOST, Lips, OffsetMeter, tracks

Array = NDArray[Any]

MIN_RATE = 20  # of a source: mouths move faster than slower ones show
MIN_FRAMES = 25  # of a sample: 1 s
MAX_FRAMES = 500  # 20 s, which bounds memory
MAX_ENLARGED = 2.0  # crop pixels that a source pixel may become
MAX_STILL = 5  # samples' frames that one source frame may become, as where a call's picture hangs
MAX_STANDING = 90_000  # 1 h of such frames, after which a video is given up
RIVAL = 0.6  # of the followed face's size: another face so large may be the one that speaks
RIVAL_FRAMES = 25  # frames between looks for others
SLACK = 0.2  # s that a sound may end before its picture
SILENT = 1e-4  # peak of a sound that holds nothing


@dataclass(frozen=True)
class Aligned:
    """The part of a frame that is kept; the frame itself is many times larger."""

    points: Array  # (68, 3) landmarks, pixels of the frame
    matrix: Array  # (2, 3) frame -> crop pixels
    crop: Array  # (size, size, 3) uint8


class Worker:
    """Prepares videos into the folder ``parts``."""

    def __init__(self, config: Config, parts: Path) -> None:
        one_thread()  # videos are prepared in parallel; and one thread gives the same numbers anywhere
        self.config, self.parts = config, parts
        self.tracker = FaceTracker()
        self.lips = Lips()

    def __call__(self, job: Job) -> Record:
        """Write the samples of a video, then its record, each whole or not at all."""
        with disk_full_named(self.parts):
            return self.written(job)

    def written(self, job: Job) -> Record:
        """As `__call__`, without the error for a full disk."""
        record = Record.of(job)
        try:
            source = VideoReader(job.path, planes=False)
            sound = Sound(job.path) if source.info.has_audio else None
            meter = OffsetMeter()
            with shard_writer(self.parts / f"{job.key}.tar") as shard:
                for first, frames in self.pieces(source, record):
                    heard = None if sound is None else sound.take(first, len(frames))
                    if sound is not None and sound.missing > SLACK:
                        record.notes.append(f"its sound ends in frames {first} on: a sample without sound")
                        heard = None
                    elif sound is not None:
                        heard = self.in_step(sound, frames, meter, record)
                    key = f"{job.key}_{first:06d}"
                    add_sample(shard, key, *self.sample(job, first, frames, heard))
                    record.samples.append(key)
                    record.kept_seconds = round(record.kept_seconds + float(len(frames) / RATE), 3)
            record.notes += [*source.notes] if sound is None else [*source.notes, *sound.notes]
        except UserError as error:
            record = Record.of(job)
            record.error = str(error)
        if not record.samples:
            record.error = record.error or "no second of it shows one usable face"
            (self.parts / f"{job.key}.tar").unlink(missing_ok=True)
        save_json(self.parts / f"{job.key}.json", asdict(record))
        return record

    def pieces(self, source: VideoReader, record: Record) -> Iterator[tuple[int, list[Aligned]]]:
        """Runs of frames at 25 Hz that show one usable face without a cut, with the number of the first.

        What is left out is noted in the record.
        """
        if source.info.fps < MIN_RATE:
            raise UserError(f"{float(source.info.fps):g} frames a second; at least {MIN_RATE} are needed")
        follower = Follower(self.tracker, self.config.crop, source)
        held: list[Aligned] = []
        number, still, before, rival, due = 0, 0, -1, False, 0
        patience = MAX_STANDING  # frames

        def finished() -> Iterator[tuple[int, list[Aligned]]]:
            if len(held) >= MIN_FRAMES:
                yield number - len(held), held.copy()
            elif held:
                record.drop(number - len(held), number - 1, f"shorter than {MIN_FRAMES / RATE} s")
            held.clear()

        for face in follower.follow(at_rate(source), float(RATE)):
            still = still + 1 if face.frame.index == before else 0
            before = face.frame.index
            why = "the picture stands still" if still > MAX_STILL else self.lacks(face)
            patience -= still > MAX_STILL
            if not patience:
                raise UserError("the picture stands still for an hour in all; its time stamps are damaged")
            if why:
                due = number
            elif face.cut or number >= due:
                rival, due = self.has_rival(face), number + RIVAL_FRAMES
            if not why and rival:
                why = "another face as large"
            if why or face.cut or len(held) == MAX_FRAMES:
                yield from finished()
            if why or face.landmarks is None:
                record.drop(number, number, why)
            else:
                held.append(Aligned(face.landmarks, face.matrix, face.crop(self.config.crop.size)))
            number += 1
        yield from finished()
        record.seconds = float(number / RATE)

    def in_step(
        self, sound: Sound, frames: list[Aligned], meter: OffsetMeter, record: Record
    ) -> NDArray[np.float32]:
        """The sound of the stretch taken last, advanced by the video's offset as known by now."""
        landmarks = frontalize(np.stack([frame.points for frame in frames]))[0]
        around = sound.around(MOST)
        if np.abs(around).max() > SILENT:
            shut = landmarks[lip_opening(landmarks).argmin()]
            meter.add(self.lips(around, shut), tracks(landmarks))
        record.offset, record.offset_confidence = meter.offset, round(meter.confidence, 3)
        correction = meter.correction
        if correction != record.corrected and record.samples:
            record.notes.append(f"its sound is advanced by {correction} frames after {record.samples[-1]}")
        record.corrected = correction
        start = (MOST + correction) * FRAME
        return around[start : start + len(frames) * FRAME]

    def lacks(self, face: FaceFrame) -> str:
        """Why a frame cannot be used; "" if it can."""
        if not face.lacks and self.config.crop.eye_distance:
            enlarged = float(np.sqrt(abs(np.linalg.det(face.matrix[:, :2]))))
            if enlarged > MAX_ENLARGED:
                least = self.config.crop.eye_distance / MAX_ENLARGED
                return f"the face is too small: its eyes must be {least:g} pixels apart or more"
        return face.lacks

    def has_rival(self, face: FaceFrame) -> bool:
        """Whether another face is about as large as the followed one, so that the speaker is unknown."""
        assert face.landmarks is not None
        own, size = face.landmarks[:, :2].mean(0), extent(face.landmarks)
        return any(
            extent(other.landmarks) > RIVAL * size
            and np.linalg.norm(other.landmarks[:, :2].mean(0) - own) > size / 2
            for other in self.tracker.detect(face.frame.image, tiles=0)
        )

    def sample(
        self, job: Job, first: int, frames: list[Aligned], heard: NDArray[np.float32] | None
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """What a sample's JSON says, and its arrays."""
        points = np.stack([frame.points for frame in frames])
        matrices = np.stack([frame.matrix for frame in frames])
        fields: dict[str, Array] = {
            "crops": np.stack([frame.crop for frame in frames]),
            "landmarks": transform(points, matrices).astype(np.float32),
            "points": points.astype(np.float32),
        }
        if heard is not None and np.abs(heard).max() > SILENT:
            fields["audio"] = heard
        about = {
            "video": job.video,
            "speaker": job.speaker,
            "split": job.split,
            "start": float(first / RATE),
            "frames": len(frames),
            "fps": float(RATE),
            **settings(self.config),
        }
        return about, fields


class Sound:
    """A video's sound at 16 kHz, taken in stretches one after the other; what lies between is not kept."""

    def __init__(self, path: Path) -> None:
        reader = AudioReader(path)
        self.chunks, self.notes = iter(reader), reader.notes
        self.held, self.first = np.zeros(0, np.float32), 0  # samples, and the number of the first
        self.missing = 0.0  # seconds that the stretch taken last goes on after the sound's end
        self.taken = range(0)  # samples of that stretch

    def take(self, first: int, count: int) -> NDArray[np.float32]:
        """The sound of frames first to first + count - 1: (640 count,); silence after the end."""
        self.taken = range(first * FRAME, (first + count) * FRAME)
        heard = self.between(self.taken.start, self.taken.stop)
        self.missing = (len(self.taken) - len(heard)) / SAMPLE_RATE
        return np.pad(heard, (0, len(self.taken) - len(heard)))

    def around(self, frames: int) -> NDArray[np.float32]:
        """The stretch taken last with at most `MOST` frames before and after it; silence beyond the ends."""
        start, stop = self.taken.start - frames * FRAME, self.taken.stop + frames * FRAME
        before = max(0, -start)
        heard = self.between(max(0, start), stop)
        return np.pad(heard, (before, stop - start - before - len(heard)))

    def between(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples start to stop - 1, fewer at the sound's end; `MOST` frames before them are kept."""
        for chunk in self.chunks if self.first + len(self.held) < stop else ():
            held = np.concatenate([self.held, chunk])
            skip = min(max(0, start - MOST * FRAME - self.first), len(held))
            self.held, self.first = held[skip:], self.first + skip
            if self.first + len(self.held) >= stop:
                break
        return self.held[max(0, start - self.first) : max(0, stop - self.first)]


def extent(landmarks: Array) -> float:
    """Longer side of the landmarks' box, (68, 3) -> pixels."""
    return float(np.ptp(landmarks[:, :2], axis=0).max())


def settings(config: Config) -> dict[str, Any]:
    """What samples depend on, beside their video."""
    return {"crop": configuration.to_dict(config)["crop"], "offsets": "corrected"}


def save_json(path: Path, tree: Any) -> None:
    """Write JSON, whole or not at all."""
    with appearing(path) as file:
        file.write((json.dumps(tree, indent=1) + "\n").encode())
