"""Videos -> dataset shards: shots, faces, landmarks, pose, crops, sound and speech features, computed once.

One worker process a video writes what is usable of it into ``parts/``; the parent joins parts to shards in
the order of the videos. So the same videos give the same shards, however many workers there are and however
often the run was killed, and what a killed run had finished is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moditalker import config as configuration
from moditalker.checkpoint import fill, load_weights
from moditalker.config import Config
from moditalker.errors import UserError
from moditalker.features.face import FaceTracker
from moditalker.features.face_model import frontalize
from moditalker.features.identity import FaceFrame, Follower
from moditalker.features.speech import FRAME, load_speech_encoder
from moditalker.folders import claimed, told_when_full
from moditalker.landmarks import lip_opening, transform
from moditalker.media import SAMPLE_RATE, AudioReader, Frame, VideoReader
from moditalker.metrics.offset import MOST, Lips, OffsetMeter, tracks
from moditalker.shards import Split, add_sample, appearing, append, shard_writer
from moditalker.video.autoencoder import Autoencoder
from moditalker.weights import sha256
from moditalker.workers import Outcome, work

Array = NDArray[Any]

SUFFIXES = {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
RATE = Fraction(25)  # frames a second of a sample [paper]
MIN_RATE = 20  # of a source: mouths move faster than slower ones show
MIN_FRAMES = 25  # of a sample: 1 s
MAX_FRAMES = 500  # 20 s, which bounds memory
MAX_ENLARGED = 2.0  # crop pixels that a source pixel may become
MAX_STILL = 5  # samples' frames that one source frame may become, as where a call's picture hangs
MAX_STANDING = 90_000  # 1 h of such frames, after which a video is given up
RIVAL = 0.6  # of the followed face's size: another face so large may be the one that speaks
LOOK = 25  # frames between looks for others
SLACK = 0.2  # s that a sound may end before its picture
SILENT = 1e-4  # peak of a sound that holds nothing
SHARD_BYTES = 1 << 30  # after which a shard is full
REPORT, PARTS = "report.json", "parts"
UNSPLIT = "data"  # in place of a part in the names of shards
AUTOENCODER = "autoencoder.safetensors"  # in a run folder of that task


@dataclass(frozen=True)
class Job:
    """A video to prepare."""

    path: Path
    video: str  # below the folder of videos
    key: str  # its samples' names begin with this
    speaker: str
    split: str


@dataclass
class Record:
    """What became of a video.

    dropped: stretches that no sample holds, {"from", "to": seconds, "why"}. error: why nothing of it could be
    used; failed: not for a reason of its own, so the next run tries again. split: its part of the dataset;
    shard: where its samples are. offset: frames of 25 Hz by which the lips lead the sound, and its
    confidence (`metrics.offset`); corrected: frames by which the samples' sound was advanced, 0 where
    the offset is not known well enough or is small.
    """

    video: str
    bytes: int
    modified: int  # ns
    seconds: float = 0.0
    kept_seconds: float = 0.0
    samples: list[str] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str = ""
    failed: bool = False
    split: str = ""
    shard: str = ""
    offset: int = 0
    offset_confidence: float = 0.0
    corrected: int = 0

    @classmethod
    def of(cls, job: Job) -> Record:
        """Of a video that nothing is known of yet; one that is gone has failed."""
        try:
            state = job.path.stat()
        except OSError as error:
            why = f"it cannot be read ({error.strerror})"
            return cls(job.video, 0, 0, error=why, failed=True, split=job.split)
        return cls(job.video, state.st_size, state.st_mtime_ns, split=job.split)

    def drop(self, first: int, last: int, why: str) -> None:
        """Frames first to last belong to no sample."""
        start, stop = float(first / RATE), float((last + 1) / RATE)
        if self.dropped and self.dropped[-1]["why"] == why and self.dropped[-1]["to"] == start:
            self.dropped[-1]["to"] = stop
        else:
            self.dropped.append({"from": start, "to": stop, "why": why})


# ----------------------------------------------------------------------------------- one video, one worker


@dataclass(frozen=True)
class Aligned:
    """What is kept of a frame: source frames are many times as large."""

    points: Array  # (68, 3) landmarks, pixels of the frame
    matrix: Array  # (2, 3) frame -> crop pixels
    crop: Array  # (size, size, 3) uint8


class Worker:
    """Prepares videos into the folder ``parts``."""

    def __init__(self, config: Config, autoencoder: Path | None, parts: Path) -> None:
        torch.set_num_threads(
            1
        )  # videos run beside each other; and one thread gives the same numbers anywhere
        self.config, self.parts = config, parts
        self.tracker = FaceTracker()
        self.speech = load_speech_encoder(config.speech)
        self.lips = Lips()
        self.autoencoder = None if autoencoder is None else load_autoencoder(autoencoder, config)

    def __call__(self, job: Job) -> Record:
        """Write the samples of a video, then its record, each whole or not at all."""
        with told_when_full(self.parts):
            return self.written(job)

    def written(self, job: Job) -> Record:
        """The same, where the disk has room."""
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
                rival, due = self.has_rival(face), number + LOOK
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
        """Why a frame is of no use; "" where it is."""
        if not face.lacks and self.config.crop.eye_distance:
            enlarged = float(np.sqrt(abs(np.linalg.det(face.matrix[:, :2]))))
            if enlarged > MAX_ENLARGED:
                least = self.config.crop.eye_distance / MAX_ENLARGED
                return f"the face is too small: its eyes must be {least:g} pixels apart or more"
        return face.lacks

    def has_rival(self, face: FaceFrame) -> bool:
        """Whether another face is about as large as the followed one: whose the speech is cannot be told."""
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
        frontal, pose = frontalize(points)
        turn = np.concatenate(
            [pose.scale[:, None, None] * pose.rotation, pose.translation[..., None]], axis=-1
        )
        fields: dict[str, Array] = {
            "crops": np.stack([frame.crop for frame in frames]),
            "landmarks": transform(points, matrices).astype(np.float32),
            "points": points.astype(np.float32),
            "matrices": matrices.astype(np.float32),
            "frontal": frontal,
            "pose": turn.astype(np.float32),
        }
        if heard is not None and np.abs(heard).max() > SILENT:
            fields["audio"] = heard
            fields["speech"] = self.speech(heard).astype(np.float16)
        if self.autoencoder is not None and len(frames) >= self.config.autoencoder.frames:
            fields["planes"] = self.planes(self.autoencoder, fields["crops"])
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

    @torch.inference_mode()
    def planes(self, autoencoder: Autoencoder, crops: Array) -> Array:
        """Planes of one clip after the other, (n, C, L) float16; x_id is the sample's first frame."""
        region = torch.from_numpy(crops[:, self.config.crop.region_top :]).permute(3, 0, 1, 2) / 127.5 - 1
        identity, length = region[None, :, 0], autoencoder.config.frames
        clips = (region[None, :, at : at + length] for at in range(0, region.shape[1] - length + 1, length))
        planes: Array = torch.cat([autoencoder.encode(clip, identity) for clip in clips]).half().numpy()
        return planes


class Sound:
    """A video's sound at 16 kHz, taken in stretches one after the other; what lies between is not kept."""

    def __init__(self, path: Path) -> None:
        reader = AudioReader(path)
        self.chunks, self.notes = iter(reader), reader.notes
        self.held, self.first = np.zeros(0, np.float32), 0  # samples, and the number of the first
        self.missing = 0.0  # seconds that the stretch taken last goes on after the sound's end
        self.taken = range(0)  # samples of that stretch

    def take(self, first: int, count: int) -> NDArray[np.float32]:
        """What is heard during frames first to first + count - 1: (640 count,); silence after the end."""
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


def at_rate(frames: Iterable[Frame], rate: Fraction = RATE) -> Iterator[Frame]:
    """For each multiple of 1 / rate up to the end of the last frame, the frame nearest to it in time."""
    number, before = 0, None
    for frame in frames:
        while before is not None and number / rate < (before.time + frame.time) / 2:
            yield before
            number += 1
        before = frame
    while before is not None and (number + Fraction(1, 2)) / rate < before.time + before.duration:
        yield before
        number += 1


def extent(landmarks: Array) -> float:
    """Longer side of the landmarks' box, (68, 3) -> pixels."""
    return float(np.ptp(landmarks[:, :2], axis=0).max())


def load_autoencoder(run: Path, config: Config) -> Autoencoder:
    """The autoencoder that a run trained.

    Raises:
        UserError: there is none in it, or one for other crops.
    """
    state, about = load_weights(run / AUTOENCODER)
    trained = configuration.from_dict(about["config"])
    if (trained.crop, trained.autoencoder) != (config.crop, config.autoencoder):
        raise UserError(f"{run}: trained with another crop or autoencoder than preset {config.preset} has")
    model = Autoencoder(config.autoencoder)
    fill(model, {name: tensor.float() for name, tensor in state.items()}, run / AUTOENCODER)
    return model.eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------------- all videos


def settings(config: Config) -> dict[str, Any]:
    """What samples depend on, beside their video."""
    tree = configuration.to_dict(config)
    return {"crop": tree["crop"], "speech_encoder": tree["speech"], "offsets": "corrected"}


def find_videos(folder: Path, split: Split | None = None) -> list[Job]:
    """The videos below a folder, in the order of their names; with a split, those that it gives a part.

    A video's speaker is the folder that it lies in; right in ``folder``, its name without trailing numbers.

    Raises:
        UserError: there is none; the split names a folder as if it were a video.
    """
    jobs: list[Job] = []
    for path in sorted(files_below(folder)):
        name = path.relative_to(folder)
        part = "" if split is None else split.part(name.as_posix())
        if path.suffix.lower() in SUFFIXES and path.is_file() and path.name[0] != ".":
            speaker = name.parent.as_posix() if name.parent.parts else re.sub(r"(_\d+)+$", "", name.stem)
            jobs.append(Job(path.absolute(), name.as_posix(), plain(name), speaker, part))
    if split is not None:
        split.check(job.video for job in jobs)
        jobs = [job for job in jobs if job.split]
    if not jobs:
        listed = "" if split is None else " that the split lists"
        raise UserError(f"{folder}: there is no video in it{listed} ({', '.join(sorted(SUFFIXES))})")
    keys = Counter(job.key.lower() for job in jobs)
    return [job if keys[job.key.lower()] == 1 else replace(job, key=unique(job)) for job in jobs]


def files_below(folder: Path) -> Iterator[Path]:
    """Files at any depth; what links to folders lead to comes last, and no folder twice."""
    seen: set[tuple[int, int]] = set()
    waiting = deque([folder])
    while waiting:
        for place, folders, files in os.walk(waiting.popleft()):
            try:
                state = Path(place).stat()
            except OSError:
                continue  # it is gone
            if (state.st_dev, state.st_ino) in seen:
                folders.clear()
                continue
            seen.add((state.st_dev, state.st_ino))
            folders.sort()
            waiting.extend(below for name in folders if (below := Path(place, name)).is_symlink())
            yield from (Path(place, name) for name in files)


def plain(name: Path) -> str:
    """A name for samples: letters, digits, "-" and "_" alone."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", "_".join(name.with_suffix("").parts))[-80:]


def unique(job: Job) -> str:
    """The key of a video that shares its plain name with another."""
    return f"{job.key}-{hashlib.sha256(os.fsencode(job.video)).hexdigest()[:8]}"


def save_json(path: Path, tree: Any) -> None:
    """Write JSON, whole or not at all."""
    with appearing(path) as file:
        file.write((json.dumps(tree, indent=1) + "\n").encode())


class Dataset:
    """The folder that a dataset grows in: its report, its shards, and parts that are in no shard yet."""

    def __init__(
        self, out: Path, made_by: dict[str, Any], split: Split | None, shard_bytes: int = SHARD_BYTES
    ) -> None:
        self.out, self.parts, self.made_by, self.shard_bytes = out, out / PARTS, made_by, shard_bytes
        self.records: dict[str, Record] = {}  # that the report holds
        self.open: dict[str, list[tuple[Job, Record]]] = {}  # of the next shard, by part of the split
        self.stale: list[str] = []  # videos whose samples in shards are of what they were before
        if (out / REPORT).exists():
            self._read_report()
            self._check_split(split)
        elif self.parts.exists() or any(out.glob("*.tar")):
            raise UserError(f"{out}: holds tar files or {PARTS}, but no {REPORT}; choose another folder")
        self.clear(out, ".*.tar.*.part", f".{REPORT}.*.part")
        self.clear(self.parts, ".*.part")
        self.save_report()
        self.parts.mkdir(exist_ok=True)

    @staticmethod
    def clear(folder: Path, *patterns: str) -> None:
        """Delete what earlier runs left in a folder."""
        for pattern in patterns:
            for rest in folder.glob(pattern):
                rest.unlink()

    def _read_report(self) -> None:
        try:
            report = json.loads((self.out / REPORT).read_text(encoding="utf-8"))
            before = report["settings"]
            self.records = {tree["video"]: Record(**tree) for tree in report["videos"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.out / REPORT}: not a report of prepare ({error}); choose another folder"
            ) from error
        if before != self.made_by:
            raise UserError(f"{self.out}: was prepared with other settings; choose another folder")

    def _check_split(self, split: Split | None) -> None:
        for record in self.records.values():
            part = UNSPLIT if split is None else split.part(record.video)
            if record.samples and not record.shard.startswith(f"{part}-"):
                raise UserError(
                    f"{self.out}: was prepared with another split ({record.video} is in {record.shard}); "
                    "give the same one, and the new one to `moditalker train`, or choose another folder"
                )

    def finished(self, job: Job) -> Record | None:
        """What an earlier run knows of a video, if it need not be looked at again."""
        record = self.records.get(job.video) or self._part(job)
        if record is None or (record.shard and not (self.out / record.shard).is_file()):
            return None
        now = Record.of(job)
        same = (record.bytes, record.modified) == (now.bytes, now.modified)
        if record.shard and not same:
            self.stale.append(job.video)
        return record if record.shard or (same and not record.failed) else None

    def _part(self, job: Job) -> Record | None:
        try:
            record = Record(**json.loads((self.parts / f"{job.key}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        whole = not record.samples or (self.parts / f"{job.key}.tar").is_file()
        return record if whole and (record.video, record.split) == (job.video, job.split) else None

    def add(self, job: Job, record: Record) -> None:
        """The next video, in order: to the report, or first into a shard."""
        if record.shard or not record.samples:
            self.records[job.video] = record
            return
        waiting = self.open.setdefault(job.split, [])
        waiting.append((job, record))
        if sum((self.parts / f"{one.key}.tar").stat().st_size for one, _ in waiting) >= self.shard_bytes:
            self.seal(job.split)

    def seal(self, split: str) -> None:
        """Join the waiting parts to a shard; then only the report says that they are in it, then they go."""
        prefix = split or UNSPLIT
        numbers = [
            int(r.shard.split("-")[1][:-4]) for r in self.records.values() if r.shard.startswith(f"{prefix}-")
        ]
        name = f"{prefix}-{max(numbers, default=-1) + 1:06d}.tar"
        with shard_writer(self.out / name) as shard:
            for job, _ in self.open[split]:
                append(shard, self.parts / f"{job.key}.tar")
        for job, record in self.open[split]:
            record.shard = name
            self.records[job.video] = record
        self.save_report()
        for job, _ in self.open.pop(split):
            (self.parts / f"{job.key}.tar").unlink()
            (self.parts / f"{job.key}.json").unlink(missing_ok=True)

    def close(self) -> dict[str, Any]:
        """Make shards of what is left; the report."""
        for split in sorted(self.open):
            self.seal(split)
        report = self.save_report()
        self.clear(self.parts, "*.tar", "*.json")
        with suppress(OSError):  # somebody else's files stay
            self.parts.rmdir()
        return report

    def save_report(self) -> dict[str, Any]:
        """Write the report and return it."""
        records = [self.records[video] for video in sorted(self.records)]
        why: Counter[str] = Counter()
        for record in records:
            for stretch in record.dropped:
                why[stretch["why"]] += round(stretch["to"] - stretch["from"], 3)
        totals = {
            "videos": len(records),
            "samples": sum(len(record.samples) for record in records),
            "seconds": round(sum(record.seconds for record in records), 3),
            "kept_seconds": round(sum(record.kept_seconds for record in records), 3),
            "offsets_corrected": sum(record.corrected != 0 for record in records),
            "dropped_seconds": dict(why.most_common()),
            "unusable": sum(not record.samples and not record.failed for record in records),
            "failed": sum(record.failed for record in records),
        }
        report = {
            "settings": self.made_by,
            "totals": totals,
            "stale": self.stale,
            "videos": [asdict(record) for record in records],
        }
        save_json(self.out / REPORT, report)
        return report


def prepare(
    videos: Path,
    out: Path,
    config: Config,
    split: Split | None = None,
    workers: int = 1,
    cluster: str | None = None,
    autoencoder: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    shard_bytes: int = SHARD_BYTES,
    worker: Callable[..., Callable[[Job], Record]] = Worker,
) -> dict[str, Any]:
    """All videos below a folder -> shards and report.json in ``out``; a run that was killed is gone on with.

    Args:
        config: its crop and speech features are what the samples hold.
        split: shards are named by its parts, and videos without a part left out.
        workers, cluster: processes, here or on a Ray cluster whose hosts see both folders under these names.
        autoencoder: run of the autoencoder whose planes the samples hold too.
        progress: called with the number of videos done and of all.
        shard_bytes: after which a shard is full.
        worker: what is started in each process with (config, autoencoder, parts), and called with each job.

    Returns:
        The report: {"settings", "totals", "videos": a `Record` each}.

    Raises:
        UserError: no videos, ``out`` holds something else, no such speech encoder or autoencoder.
    """
    made_by = settings(config)
    if autoencoder is not None:
        load_autoencoder(autoencoder, config)  # a mistake is said before work begins
        made_by["autoencoder_sha256"] = sha256(autoencoder / AUTOENCODER)
    jobs = find_videos(videos, split)
    out = out.absolute()
    with claimed(out):
        dataset = Dataset(out, made_by, split, shard_bytes)
        known = {job: record for job in jobs if (record := dataset.finished(job)) is not None}
        todo = [job for job in jobs if job not in known]
        queue = deque(jobs)
        there = {job.video for job in jobs}
        dataset.stale += [
            video for video, record in dataset.records.items() if record.samples and video not in there
        ]

        def take() -> None:
            while queue and queue[0] in known:
                job = queue.popleft()
                dataset.add(job, known[job])

        take()
        progress(len(jobs) - len(todo), len(jobs))
        start = partial(worker, config, autoencoder, dataset.parts)
        for done, outcome in enumerate(work(start, todo, workers, cluster), len(jobs) - len(todo) + 1):
            known[outcome.item] = outcome.result or lost(outcome)
            take()
            progress(done, len(jobs))
        return dataset.close()


def lost(outcome: Outcome[Job, Record]) -> Record:
    """The record of a video that no worker came back from."""
    record = Record.of(outcome.item)
    record.error, record.failed = outcome.error, True
    return record
