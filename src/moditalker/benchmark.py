"""The same clips through our model and through baselines, judged in one run: every table of docs/results.md.

Driven by their own sound, by another person's, by silence, by their own landmarks; beside the whole model a
linear AToM through the same video stage, the source's own mouth, and any other models.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from moditalker.checkpoint import write_whole
from moditalker.competitors import KINDS, Competitor, load
from moditalker.errors import UserError
from moditalker.evaluate.grids import Grid, Row, Word, compare, draw_grids
from moditalker.evaluate.observe import observe
from moditalker.evaluate.pairs import VIDEOS, Pair, write_pairs
from moditalker.evaluate.report import plain
from moditalker.evaluate.run import Results, summaries
from moditalker.features.face import FaceTracker
from moditalker.media import SAMPLE_RATE, AudioReader, write_wav
from moditalker.motion.atom import Atom
from moditalker.pipeline import MoDiTalker
from moditalker.shards import Split
from moditalker.tables import Scored, medians, page
from moditalker.workers import work

Progress = Callable[[str, int, int], None]

GRID_CLIPS = 3  # of different people, in each picture of grids


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
    """A video to make: the face of one clip, what drives it, and where it goes."""

    face: Path
    audio: Path
    out: Path
    model: str = ""  # name of another one
    linear: bool = False  # AToM's linear first estimate alone
    reconstruct: bool = False  # the face's own landmarks drive it


@dataclass(frozen=True)
class Set:
    """A row of the table: videos of one kind and what they are held against. method: its name in Table 1."""

    title: str
    pairs: list[Pair]
    jobs: list[Job]
    method: str = ""


def choose_clips(data: Path, split: Path | None = None, part: str = "val", each: int = 4) -> list[Clip]:
    """Up to `each` clips of every speaker folder, or of those that a split lists under `part`.

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
    """A fixed pairing: each face with the sound of so many clips, spread evenly over the list (a single one
    is half the list further), of other speakers while there are any.

    Raises:
        UserError: fewer other clips than that.
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
    clips: Sequence[Clip], out: Path, pairings: int = 1, others: Sequence[Competitor] = ()
) -> dict[str, Set]:
    """All sets of a benchmark; nothing is made yet.

    pairings: voices that each face is given; others: models with rows of their own.
    """
    videos, sounds, pairing = out / "videos", out / "silence", crossed(clips, pairings)

    def own(name: str, title: str, method: str, **how: Any) -> Set:
        jobs = [Job(clip.path, clip.path, videos / name / f"{clip.name}.mp4", **how) for clip in clips]
        return Set(title, [Pair(job.out.stem, job.out, reference=job.face) for job in jobs], jobs, method)

    def other(name: str, title: str, **how: Any) -> Set:
        jobs = [
            Job(face.path, speech.path, videos / name / f"{face.name}-{speech.name}.mp4", **how)
            for face, speech in pairing
        ]
        return Set(
            title, [Pair(job.out.stem, job.out, face=job.face, speech=job.audio) for job in jobs], jobs
        )

    cross = other("cross", "Another person's speech")
    silent = [
        Job(clip.path, sounds / f"{clip.name}.wav", videos / "silence" / f"{clip.name}.mp4") for clip in clips
    ]
    real = [Pair(clip.name, clip.path, reference=clip.path) for clip in clips]
    sets = {
        "real": Set("Nothing: the real clips themselves", real, [], "Real video"),
        "self": own("self", "Own speech", "This model"),
        "self-linear": own(
            "self-linear", "Own speech, linear AToM", "Linear AToM, same video stage", linear=True
        ),
        "landmarks": own(
            "landmarks",
            "Own landmarks (upper bound)",
            "Real landmarks, same video stage (upper bound)",
            reconstruct=True,
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
        "silence": Set("Silence", [Pair(job.out.stem, job.out, face=job.face) for job in silent], silent),
    }
    for model in others:
        for kind, driven in zip(KINDS, ("Own speech", "Another person's speech"), strict=True):
            name, title = f"{kind}-{model.slug}", f"{driven}, {model.name}"
            how = {"model": model.slug}
            sets[name] = own(name, title, model.name, **how) if kind == "self" else other(name, title, **how)
    return sets


def make(
    sets: dict[str, Set],
    preset: str,
    workers: int = 1,
    progress: Progress = lambda stage, done, total: None,
    others: Sequence[Competitor] = (),
) -> dict[str, str]:
    """Make the videos that are not there yet; why some could not be made, by name.

    Raises:
        UserError: a model that cannot be loaded.
    """
    jobs = [job for one in sets.values() for job in one.jobs if not job.out.exists()]
    for job in jobs:
        job.out.parent.mkdir(parents=True, exist_ok=True)
    failures = {}
    wanted = [model for model in others if any(job.model == model.slug for job in jobs)]
    for number, outcome in enumerate(work(partial(_start, preset, wanted), jobs, workers), 1):
        if outcome.error:
            failures[str(outcome.item.out)] = outcome.error
        progress("videos", number, len(jobs))
    return failures


def _start(preset: str, others: Sequence[Competitor]) -> Callable[[Job], None]:
    whole = MoDiTalker.from_pretrained(preset)
    talkers = {"": whole} | {model.slug: load(model, preset) for model in others}
    return partial(_make, talkers, linear(whole))


def _make(talkers: dict[str, MoDiTalker], simple: MoDiTalker, job: Job) -> None:
    if not job.audio.exists():
        job.audio.parent.mkdir(parents=True, exist_ok=True)
        write_wav(job.audio, np.zeros(round(AudioReader(job.face).seconds * SAMPLE_RATE), np.float32))
    video = (simple if job.linear else talkers[job.model]).generate(job.face, job.audio)
    if job.reconstruct:
        video = replace(video, motion=None)
    video.save(job.out)


def linear(talker: MoDiTalker) -> MoDiTalker:
    """The same talker whose AToM is its linear first estimate: a regression of landmarks on speech.

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
    """The pairs of each set as a manifest that `moditalker evaluate` reads: the pairing, published."""
    paths = {name: out / f"{name}.jsonl" for name in sets}
    for name, one in sets.items():
        write_pairs(paths[name], one.pairs)
    return paths


def write_table(sets: dict[str, Set], results: dict[str, Results], out: Path, about: dict[str, Any]) -> None:
    """benchmark.md and benchmark.json in a folder, each whole or not at all."""
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
    """self.png and cross.png in a folder: the methods side by side, as in the paper's Fig. 4.

    words: of real videos, where they are known; the others' columns have times only. Returns why comparisons
    could not be drawn, by name.
    """
    tracker, failures = FaceTracker(), {}
    for kind in ("self", "cross"):
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
    """One comparison: the real videos above, then what was made of them."""
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
    for label, name in made.items():
        rows.append(Row(label, observe(sets[name].pairs[number].generated, tracker), face))
    return compare(title, speech, words.get(speech_path, ()), rows)
