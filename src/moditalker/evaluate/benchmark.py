"""Runs our model and baselines on the same clips and judges them (docs/lab/benchmark.md).

Videos are driven by their own sound, another person's, silence, and their own landmarks. Baselines are a
linear AToM with the same video stage, the source's own mouth, and any other models.
"""

from __future__ import annotations

import copy
import io
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from moditalker.data.split import Split
from moditalker.errors import UserError
from moditalker.evaluate.competitors import Competitor, load
from moditalker.evaluate.grids import Grid, Row, Word, compare, draw_grids
from moditalker.evaluate.known import keep, read
from moditalker.evaluate.observe import observe
from moditalker.evaluate.pairs import VIDEOS, Pair, write_pairs
from moditalker.evaluate.report import plain, show
from moditalker.evaluate.run import Results, Settings, Task, judging, summaries, tasks_of
from moditalker.evaluate.tables import Scored, medians, page
from moditalker.features.face.identity import FaceFrame
from moditalker.features.face.tracker import FaceTracker
from moditalker.jobs.files import write_whole
from moditalker.jobs.pool import work
from moditalker.media import SAMPLE_RATE, AudioReader, open_source, plan_frames, probe, write_wav
from moditalker.motion.atom import Atom
from moditalker.talker.steps import FaceTrack
from moditalker.talker.talker import MoDiTalker
from moditalker.talker.video import Video

Progress = Callable[[str, int, int], None]

GRID_CLIPS = 3  # clips, of different people, in each picture of grids
SECONDS = 2.0  # of each clip, at most
AWAY = 1.0  # s: least distance of source frames if the real landmarks drive a video
TRIM = Fraction(1, 50)  # s: a sound that is longer by at most this is not cut
SHOWN = ("psnr", "lpips_mouth", "mouth_detail", "lip_correlation", "lip_amplitude")  # in the line of a set


@dataclass(frozen=True)
class Clip:
    """A video of one person speaking; speaker: the name of its folder."""

    path: Path

    @property
    def speaker(self) -> str:
        return self.path.parent.name

    @property
    def name(self) -> str:
        return f"{self.speaker}_{self.path.stem}"


@dataclass(frozen=True)
class Job:
    """A video to make: the face of one clip, its driver, and its file."""

    face: Path
    audio: Path
    out: Path
    model: str = ""  # another model, by its name
    linear: bool = False  # AToM's linear first estimate alone
    reconstruct: bool = False  # the face's own landmarks drive it
    silent: bool = False  # a silence as long as the sound drives it
    seconds: float = SECONDS  # at most
    away: float = 0.0  # s, as in `MoDiTalker.video`


@dataclass(frozen=True)
class Set:
    """A row of the table: videos of one kind with their references. method: its name in Table 1."""

    title: str
    pairs: list[Pair]
    jobs: list[Job]
    method: str = ""


def choose_clips(data: Path, split: Path | None = None, part: str = "val", each: int = 4) -> list[Clip]:
    """Choose up to `each` clips of every speaker folder, or of those that a split lists under `part`.

    Raises:
        UserError: fewer than two clips, or the split cannot be read.
    """
    paths = [path for path in sorted(data.glob("*/*")) if path.suffix.lower() in VIDEOS]
    if split is not None:
        listed = Split(split)
        paths = [path for path in paths if listed.part(path.relative_to(data).as_posix()) == part]
    groups: dict[str, list[Clip]] = {}
    for path in paths:
        if path.is_file():
            groups.setdefault(path.parent.name, []).append(Clip(path))
    clips = [clip for _, group in sorted(groups.items()) for clip in group[:each]]
    if len(clips) < 2:
        raise UserError(f"{data}: {len(clips)} clips; at least 2 are needed, in a folder for each speaker")
    return clips


def crossed(clips: Sequence[Clip], pairings: int = 1) -> list[tuple[Clip, Clip]]:
    """Pair each face with the sounds of so many clips, spread evenly over the list (a single one is half the
    list away), of other speakers while there are any. The pairing is fixed.

    Raises:
        UserError: there are fewer other clips.
    """
    if not 1 <= pairings < len(clips):
        raise UserError(
            f"--pairings {pairings}: with {len(clips)} clips a face has at most {len(clips) - 1}; choose "
            "fewer, or more clips"
        )
    pairs = []
    for i, face in enumerate(clips):
        chosen: list[Clip] = []
        for k in range(1, pairings + 1):
            start = i + k * len(clips) // (pairings + 1)
            others = [clips[(start + step) % len(clips)] for step in range(len(clips))]
            others = [clip for clip in others if clip != face and clip not in chosen]
            chosen.append(next((clip for clip in others if clip.speaker != face.speaker), others[0]))
        pairs += [(face, speech) for speech in chosen]
    return pairs


def plan(
    clips: Sequence[Clip],
    out: Path,
    pairings: int = 1,
    others: Sequence[Competitor] = (),
    seconds: float = SECONDS,
    away: float = AWAY,
) -> dict[str, Set]:
    """Plan all sets of a benchmark; nothing is made yet.

    pairings: voices per face; others: models with rows of their own; seconds: most of each clip; away: least
    distance of source frames if real landmarks drive a video, see `MoDiTalker.video`.
    """
    videos, pairing = out / "videos", crossed(clips, pairings)

    def own(name: str, title: str, method: str, **how: Any) -> Set:
        jobs = [
            Job(clip.path, clip.path, videos / name / f"{clip.name}.mp4", seconds=seconds, **how)
            for clip in clips
        ]
        return Set(title, [Pair(job.out.stem, job.out, reference=job.face) for job in jobs], jobs, method)

    def other(name: str, title: str, **how: Any) -> Set:
        jobs = [
            Job(
                face.path,
                speech.path,
                videos / name / f"{face.name}-{speech.name}.mp4",
                seconds=seconds,
                **how,
            )
            for face, speech in pairing
        ]
        return Set(
            title, [Pair(job.out.stem, job.out, face=job.face, speech=job.audio) for job in jobs], jobs
        )

    cross = other("cross", "Another person's speech")
    silence = own("silence", "Silence", "", silent=True)
    real = [Pair(clip.name, clip.path, reference=clip.path) for clip in clips]
    far = f", from frames {away:g} s away" if away else ""
    again: dict[str, Any] = {"reconstruct": True, "away": away}
    sets = {
        "real": Set("Nothing: the real clips themselves", real, [], "Real video"),
        "self": own("self", "Own speech", "This model"),
        "self-linear": own(
            "self-linear", "Own speech, linear AToM", "Linear AToM, same video stage", linear=True
        ),
        "landmarks": own(
            "landmarks",
            f"Own landmarks (upper bound){far}",
            f"Real landmarks, same video stage (upper bound){far}",
            **again,
        ),
        "cross": cross,
        "cross-linear": other("cross-linear", "Another person's speech, linear AToM", linear=True),
        "cross-source": Set(
            "Another person's speech, source mouth kept",
            [replace(pair, generated=pair.face or pair.generated) for pair in cross.pairs],
            [],
        ),
        "wrong-audio": Set(
            "Another person's speech, held against the face's own video",
            [Pair(pair.name, pair.generated, reference=pair.face) for pair in cross.pairs],
            [],
        ),
        "silence": replace(
            silence, pairs=[replace(pair, reference=None, face=pair.reference) for pair in silence.pairs]
        ),
    }
    driven = {"self": "Own speech", "landmarks": "Own landmarks", "cross": "Another person's speech"}
    for model in others:
        for kind in model.kinds:
            name, title = f"{kind}-{model.slug}", f"{driven[kind]}, {model.name}"
            how: dict[str, Any] = {"model": model.slug}
            if kind == "cross":
                sets[name] = other(name, title, **how)
            elif kind == "landmarks":
                sets[name] = own(name, title + far, f"Real landmarks, {model.name}{far}", **how, **again)
            else:
                sets[name] = own(name, title, model.name, **how)
    return sets


def choose_sets(sets: dict[str, Set], wanted: str) -> dict[str, Set]:
    """Choose sets from a list of names with commas; "all": all sets.

    Raises:
        UserError: a name that no set has; none at all.
    """
    names = [name for name in (part.strip() for part in wanted.split(",")) if name]
    if unknown := [name for name in names if name not in (*sets, "all")]:
        raise UserError(f"--sets {unknown[0]}: not known; there are {', '.join(sets)}, and all")
    if not names:
        raise UserError("--sets: name at least one set, or all")
    return {name: one for name, one in sets.items() if "all" in names or name in names}


def make(
    sets: dict[str, Set],
    preset: str,
    workers: int = 1,
    progress: Progress = lambda stage, done, total: None,
    others: Sequence[Competitor] = (),
) -> dict[str, str]:
    """Make the missing videos; return, by name, why some could not be made.

    Raises:
        UserError: a model that cannot be loaded.
    """
    return run(sets, {}, Settings(()), preset, workers, progress, others=others)


def run(
    sets: dict[str, Set],
    folders: Mapping[str, Path],
    settings: Settings,
    preset: str,
    workers: int = 1,
    progress: Progress = lambda stage, done, total: None,
    say: Callable[[str], None] = lambda line: None,
    others: Sequence[Competitor] = (),
) -> dict[str, str]:
    """Make the missing videos and measure the unmeasured ones, set by set.

    folders: folders of the sets to measure, in which `evaluate_sets` finds the figures; progress: counts
    videos; say: gets a line when a set is finished. Returns, by name, why some could not be made.

    Raises:
        UserError: a model that cannot be loaded; a folder that cannot be written.
    """
    steps, failures = _steps(sets, folders, settings), dict[str, str]()
    telling = _Telling(sets, steps, workers, say)
    jobs = [step.job for step in steps if step.job is not None]
    for job in jobs:
        job.out.parent.mkdir(parents=True, exist_ok=True)
    wanted = [model for model in others if any(job.model == model.slug for job in jobs)]
    uses = Counter(path for step in steps if step.task is not None for path in step.task.pair.files)
    again = frozenset(path for path, count in uses.items() if count > 1)
    progress("videos", 0, len(steps))
    with tempfile.TemporaryDirectory(prefix="moditalker-") as folder:
        start = partial(_start, preset, wanted if jobs else None, settings, again, Path(folder))
        for number, outcome in enumerate(work(start, steps, workers), 1):
            step: _Step = outcome.item
            if outcome.error and step.job is not None:
                failures[str(step.job.out)] = outcome.error
            progress(step.name, number, len(steps))
            telling.done(step, outcome.result)
    return failures


@dataclass(frozen=True)
class _Step:
    """A video to make, to measure, or both; name: its set's."""

    name: str
    job: Job | None
    task: Task | None


def _steps(sets: dict[str, Set], folders: Mapping[str, Path], settings: Settings) -> list[_Step]:
    """List the steps that are left, set by set."""
    steps = []
    for name, one in sets.items():
        jobs = {job.out: job for job in one.jobs if not job.out.exists()}
        tasks = tasks_of({folders[name]: one.pairs}, settings) if name in folders else []
        for task in tasks:
            job = jobs.pop(task.pair.generated, None)
            if job is not None or task.known() is None:
                steps.append(_Step(name, job, task))
        steps += [_Step(name, job, None) for job in jobs.values()]
    return steps


@dataclass
class _Telling:
    """Reports the progress of a benchmark in lines."""

    sets: Mapping[str, Set]
    steps: Sequence[_Step]
    workers: int
    say: Callable[[str], None]
    begun: float = field(default_factory=time.perf_counter)
    took: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})  # by: was made

    def __post_init__(self) -> None:
        self.left = Counter(step.name for step in self.steps)
        self.making = Counter(step.job is not None for step in self.steps)
        self.records: dict[str, list[dict[str, Any]]] = {name: [] for name in self.left}

    def done(self, step: _Step, result: tuple[float, dict[str, Any] | None] | None) -> None:
        """Count a finished step; a result has its seconds and the record of its figures."""
        made = step.job is not None
        self.left[step.name] -= 1
        self.making[made] -= 1
        if result is not None:
            self.took[made].append(result[0])
            if result[1] is not None:
                self.records[step.name].append(result[1])
        if not self.left[step.name]:
            self.say(self.line(step.name))

    def line(self, name: str) -> str:
        """Write a line on a finished set, with the time left for all."""
        records, figures = self.records[name], []
        for key in SHOWN:
            values = [float(v) for one in records if (v := one["values"].get(key)) is not None]
            if values:
                figures.append(f"{key} {show(median(values))}")
        count = sum(step.name == name for step in self.steps)
        summary = f"{name}: {count} videos" + (f"; medians: {', '.join(figures)}" if figures else "")
        known = self.took[True] or self.took[False]
        each = {made: mean(took) if took else mean(known or [0.0]) for made, took in self.took.items()}
        left = sum(each[made] * count for made, count in self.making.items()) / self.workers
        passed = time.perf_counter() - self.begun
        return f"{summary}; {_minutes(passed)} passed, about {_minutes(left)} left"


def _minutes(seconds: float) -> str:
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def _start(
    preset: str,
    others: Sequence[Competitor] | None,
    settings: Settings,
    again: frozenset[Path],
    folder: Path,
) -> Callable[[_Step], tuple[float, dict[str, Any] | None]]:
    """Prepare a worker. others: None if nothing is to be made; folder: shared by workers."""
    maker = None if others is None else _Maker(preset, others, folder)
    return partial(_step, maker, judging(settings, again, folder))


def _step(
    maker: _Maker | None, judge: Callable[[Task], dict[str, Any]], step: _Step
) -> tuple[float, dict[str, Any] | None]:
    begun = time.perf_counter()
    if step.job is not None and not step.job.out.exists():
        assert maker is not None
        maker.make(step.job)
    record = None if step.task is None else judge(step.task)
    return time.perf_counter() - begun, record


class _Maker:
    """Makes videos; all rows and workers share the faces found in a source.

    folder: private to this run, because its content is trusted.
    """

    def __init__(self, preset: str, others: Sequence[Competitor], folder: Path) -> None:
        whole = MoDiTalker.from_pretrained(preset)
        self.talkers = {"": whole} | {model.slug: load(model, preset) for model in others}
        self.whole, self.folder = whole, folder
        self.simple: MoDiTalker | None = None

    def make(self, job: Job) -> None:
        if job.linear and self.simple is None:
            self.simple = linear(self.whole)
        talker = self.simple if job.linear and self.simple is not None else self.talkers[job.model]
        most = _exactly(job.seconds)
        seconds = min(most, _length(job.face), _length(job.audio))
        sound = self._sound(job, seconds)
        track = self._track(talker, job.face, most, seconds)
        motion = None if job.reconstruct else talker.motion(talker.speech(sound), track)
        video: Video = talker.video(track, motion, away=job.away)
        replace(video, audio=sound).save(job.out, quality=14)  # as for all figures before

    def _sound(self, job: Job, seconds: Fraction) -> Path:
        """The file whose sound drives a video, of the wanted length."""
        reader = None if job.silent else AudioReader(job.audio)
        if reader is not None and abs(reader.seconds - seconds) <= TRIM:
            return job.audio
        path = self.folder / f"{_named(job.audio, float(seconds), job.silent)}.wav"
        if not path.exists():
            sound = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
            if reader is not None:
                heard = reader.read(float(seconds))[: len(sound)]
                sound[: len(heard)] = heard
            write_wav(path, sound)
        return path

    def _track(self, talker: MoDiTalker, face: Path, most: Fraction, seconds: Fraction) -> FaceTrack:
        """Track the face once, in as much of the source as any row shows."""
        path = self.folder / f"{_named(face, float(most), talker.config.crop)}.npz"
        if path.exists():
            anchor, known = read(path)
            track = FaceTrack(open_source(face), anchor, seconds, lambda: iter(()))
        else:
            track = talker.face(face, min(most, _length(face)))
            known = [replace(item, frame=None) for item in track]  # type: ignore[arg-type]
            keep(path, track.anchor, known)

        def frames() -> Iterator[FaceFrame]:
            for frame, item in zip(plan_frames(track.source, seconds), known, strict=False):
                yield replace(item, frame=frame)

        return replace(track, seconds=seconds, frames=frames)


def _length(path: Path) -> Fraction:
    """Seconds that a file lasts, by its container."""
    return _exactly(float(probe(path).seconds or AudioReader(path).seconds))


def _exactly(seconds: float) -> Fraction:
    """Seconds without a rounding error, which would add a frame."""
    return Fraction(seconds).limit_denominator(10**6)


def _named(path: Path, *facts: object) -> str:
    """A key for the cached facts of a file."""
    return sha256(repr((str(path.absolute()), *facts)).encode()).hexdigest()[:24]


def linear(talker: MoDiTalker) -> MoDiTalker:
    """Return the talker with AToM's linear first estimate alone: a regression of landmarks on speech.

    Raises:
        UserError: its AToM has none.
    """
    if talker.atom.first_estimate is None:
        raise UserError(
            f"the weights {talker.name!r} have no linear first estimate (atom.first_estimate = 0)"
        )
    atom: Atom = copy.deepcopy(talker.atom)
    for parameter in atom.out.parameters():
        parameter.zero_()
    other = copy.copy(talker)
    other.atom = atom
    return other


def write_manifests(sets: dict[str, Set], out: Path) -> dict[str, Path]:
    """Write the pairs of each set as a manifest that `moditalker evaluate` reads."""
    paths = {name: out / f"{name}.jsonl" for name in sets}
    for name, one in sets.items():
        write_pairs(paths[name], one.pairs)
    return paths


def write_table(sets: dict[str, Set], results: dict[str, Results], out: Path, about: dict[str, Any]) -> None:
    """Write benchmark.md and benchmark.json into a folder, each whole or not at all."""
    rows = [Scored(sets[name].title, one, sets[name].method) for name, one in results.items()]
    write_whole(out / "benchmark.md", page(rows).encode())
    tree = {
        name: {metric: _plain(vars(value)) for metric, value in summaries(one).items()}
        | {"sets": one.sets, "people": _plain(medians(one))}
        for name, one in results.items()
    }
    write_whole(
        out / "benchmark.json", (json.dumps({"about": about, "sets": tree}, indent=1) + "\n").encode()
    )


def _plain(tree: Any) -> Any:
    """Nested figures as `report.plain` has them."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return [_plain(value) for value in tree] if isinstance(tree, tuple) else plain(tree)


def write_grids(sets: dict[str, Set], out: Path, words: Mapping[Path, Sequence[Word]]) -> dict[str, str]:
    """Draw self.png and cross.png in a folder: the methods side by side, as in the paper's Fig. 4.

    words: words of real videos, if known; the others' columns have times only. Returns, by name, why
    comparisons could not be drawn.
    """
    tracker, failures = FaceTracker(), {}
    for kind in (kind for kind in ("self", "cross") if kind in sets):
        grids = []
        for number in _of_each_face(sets[kind].pairs):
            try:
                grids.append(_grid(sets, kind, number, tracker, words))
            except UserError as error:
                failures[f"{kind}.png, {sets[kind].pairs[number].name}"] = str(error)
        if grids:
            file = io.BytesIO()
            draw_grids(grids).save(file, "PNG")
            write_whole(out / f"{kind}.png", file.getvalue())
    return failures


def _of_each_face(pairs: Sequence[Pair]) -> list[int]:
    """Numbers of the pairs to draw: the first of each person, of at most `GRID_CLIPS` people."""
    first: dict[str, int] = {}
    for number, pair in enumerate(pairs):
        face = pair.reference or pair.face
        assert face is not None
        first.setdefault(face.parent.name, number)
    return list(first.values())[:GRID_CLIPS]


def _grid(
    sets: dict[str, Set], kind: str, number: int, tracker: FaceTracker, words: Mapping[Path, Sequence[Word]]
) -> Grid:
    """One comparison: the real videos above, then the generated ones."""
    pair = sets[kind].pairs[number]
    face_path, speech_path = pair.reference or pair.face, pair.reference or pair.speech
    assert face_path is not None
    assert speech_path is not None
    face = speech = observe(face_path, tracker)
    rows = [Row("Real video", face, face)]
    title = f"{Clip(face_path).name}, own speech"
    made = {"Ours": "self", "Linear AToM": "self-linear", "Own landmarks (upper bound)": "landmarks"}
    if kind == "cross":
        speech = observe(speech_path, tracker)
        rows = [Row("The sound's own video", speech, speech), Row("The face's own video", face, face)]
        title = f"{Clip(face_path).name}, speech of {Clip(speech_path).name}"
        made = {"Ours": "cross", "Linear AToM": "cross-linear"}
    for label, name in ((label, name) for label, name in made.items() if name in sets):
        rows.append(Row(label, observe(sets[name].pairs[number].generated, tracker), face))
    return compare(title, speech, words.get(speech_path, ()), rows)
