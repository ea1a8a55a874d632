"""Judges many pairs in parallel. It can resume, and reports failures next to the other pairs' figures."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from moditalker import __version__
from moditalker.errors import UserError
from moditalker.evaluate.measures import MEASURES, measure
from moditalker.evaluate.observe import Case, Observed, Observer, build_case
from moditalker.evaluate.pairs import Pair
from moditalker.evaluate.pictures import contact_sheet
from moditalker.evaluate.sets import SETS
from moditalker.jobs.files import write_whole
from moditalker.jobs.pool import work
from moditalker.metrics.frechet import frechet_distance
from moditalker.weights.named import MissingWeights, find_given

Progress = Callable[[str, int, int], None]

SCHEMA = 1  # version of a video's record; other versions are measured again
RESAMPLES, PART = 10_000, 500  # of the bootstrap, in all and at once


@dataclass(frozen=True)
class Settings:
    """The settings of a figure: metrics by name, seconds read, whether the codec is applied."""

    metrics: tuple[str, ...]
    seconds: float = 30.0
    recode: bool = True


@dataclass(frozen=True)
class Results:
    """The content of the report. videos: a record each, in the order of the pairs; see docs/evaluation.md."""

    settings: Settings
    videos: list[dict[str, Any]]
    sets: dict[str, float | None]
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Pairs without figures."""
        return sum("error" in video for video in self.videos)


def evaluate(
    pairs: Sequence[Pair],
    out: Path,
    metrics: Sequence[str],
    seconds: float = 30.0,
    recode: bool = True,
    workers: int = 1,
    progress: Progress = lambda stage, done, total: None,
) -> Results:
    """Measure pairs; figures of unchanged files in the folder `out` are kept.

    metrics: names of `MEASURES` and `SETS`; those whose weights are missing are left out, and
    `Results.missing` says how to get them. Raises UserError if the folder cannot be written.
    """
    return evaluate_sets({out: pairs}, metrics, seconds, recode, workers, progress)[out]


def evaluate_sets(
    sets: Mapping[Path, Sequence[Pair]],
    metrics: Sequence[str],
    seconds: float = 30.0,
    recode: bool = True,
    workers: int = 1,
    progress: Progress = lambda stage, done, total: None,
) -> dict[Path, Results]:
    """Measure many sets of pairs by their folders. A video of several pairs is read once, if it fits."""
    settings, missing = available(metrics, seconds, recode)
    tasks = tasks_of(sets, settings)
    records = {task: record for task in tasks if (record := task.known()) is not None}
    waiting = sorted((task for task in tasks if task not in records), key=lambda task: task.face)
    uses = Counter(path for task in waiting for path in task.pair.files)
    again = frozenset(path for path, count in uses.items() if count > 1)
    progress("videos", len(records), len(tasks))
    for outcome in work(partial(judging, settings, again), waiting, workers):
        records[outcome.item] = outcome.result or {
            "error": outcome.error,
            **({"details": outcome.details} if outcome.details else {}),
        }
        progress("videos", len(records), len(tasks))
    found = {}
    for out in sets:
        videos = [_described(task.pair) | records[task] for task in tasks if task.folder == _folder(out)]
        found[out] = Results(settings, videos, _sets(settings, videos, _folder(out)), missing)
    return found


def available(metrics: Sequence[str], seconds: float, recode: bool) -> tuple[Settings, dict[str, str]]:
    """Settings with the metrics whose weights are there, and how to get the others', by name."""
    missing = {}
    for name in metrics:
        try:
            if weights := (MEASURES | SETS)[name].weights:
                find_given(weights)
        except MissingWeights as error:
            missing[name] = str(error)
    return Settings(tuple(name for name in metrics if name not in missing), seconds, recode), missing


def tasks_of(sets: Mapping[Path, Sequence[Pair]], settings: Settings) -> list[Task]:
    """List the pairs to measure, set by set; make each set's folder. Raises UserError if it cannot."""
    for out in sets:
        try:
            _folder(out).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out}: the report cannot be written there ({error.strerror})") from None
    return [Task(pair, settings, _folder(out)) for out, pairs in sets.items() for pair in pairs]


@dataclass(frozen=True)
class Task:
    """A pair to measure, with its settings and the folder for its figures."""

    pair: Pair
    settings: Settings
    folder: Path

    @property
    def key(self) -> str:
        """The name of its figures, by the present files."""
        return _key(self.pair, self.settings)

    @property
    def face(self) -> str:
        """The sort key: pairs of one face come together, so that it is observed once."""
        return str(self.pair.face or self.pair.reference or "")

    def known(self) -> dict[str, Any] | None:
        """Its record, if it was measured before and the files have not changed since."""
        return _known(self.folder, self.key)


def _folder(out: Path) -> Path:
    return out / "videos"


def _described(pair: Pair) -> dict[str, Any]:
    return {key: None if value is None else str(value) for key, value in asdict(pair).items()}


def _key(pair: Pair, settings: Settings) -> str:
    """A key for the figures of these files with these settings."""
    files = []
    for path in (pair.generated, pair.reference, pair.face, pair.speech):
        try:
            stat = None if path is None else path.stat()
        except (OSError, ValueError):  # no file has a zero in its name
            stat = None
        files.append(None if stat is None else [str(path), stat.st_size, stat.st_mtime_ns])
    facts = json.dumps([SCHEMA, __version__, asdict(settings), files], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:24]


def _known(folder: Path, key: str) -> dict[str, Any] | None:
    """The record of a video that was measured before; None if none can be read."""
    try:
        record = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


def judging(
    settings: Settings, again: Collection[Path], cache: Path | None = None
) -> Callable[[Task], dict[str, Any]]:
    """Prepare a worker: load the networks that find faces. again, cache: as for `Observer`."""
    from moditalker.features.face.tracker import FaceTracker

    return partial(_judge, Observer(FaceTracker(), settings.seconds, settings.recode, again, cache))


def _judge(observer: Observer, task: Task) -> dict[str, Any]:
    """Measure a pair and store the figures; the record is written last, so that it is complete or missing."""
    key, folder, settings = task.key, task.folder, task.settings
    case = build_case(task.pair, observer)
    values, reasons = measure(case, [name for name in settings.metrics if name in MEASURES])
    features = {}
    real = case.reference or case.face
    for name in settings.metrics:
        if name in SETS and real is not None and not real.picture:
            features[f"{name}/generated"] = SETS[name].features(case.generated)
            features[f"{name}/real"] = SETS[name].features(real)
    file = io.BytesIO()
    np.savez(file, **features)  # type: ignore[arg-type]
    write_whole(folder / f"{key}.npz", file.getvalue())
    write_whole(folder / f"{key}.jpg", contact_sheet(case))
    record = {
        "key": key,
        "frames": len(case.generated.frames),
        "fps": case.generated.fps,
        "frames_missing": case.missing,
        "frames_without_face": int((~case.generated.seen).sum()),
        "values": {name: _plain(value) for name, value in values.items()},
        "reasons": reasons,
        "lip_opening": _openings(case),
    }
    write_whole(folder / f"{key}.json", (json.dumps(record) + "\n").encode())
    return record


def _openings(case: Case) -> dict[str, list[float | None]]:
    shown: dict[str, Observed | None] = {"generated": case.generated, "real": case.speech}
    if case.face is not None and not case.face.picture and case.face is not case.speech:
        shown["face clip"] = case.face
    return {
        name: [round(float(v), 4) if math.isfinite(v) else None for v in clip.opening]
        for name, clip in shown.items()
        if clip is not None
    }


def _plain(value: float | None) -> float | str | None:
    """A number for JSON, which has no infinity."""
    return value if value is None or math.isfinite(value) else ("inf" if value > 0 else "-inf")


def _sets(settings: Settings, videos: list[dict[str, Any]], folder: Path) -> dict[str, float | None]:
    """Fréchet distances over all videos that have figures; None with fewer than two samples a side."""
    distances: dict[str, float | None] = {}
    for name in (name for name in settings.metrics if name in SETS):
        made, real = [], []
        for video in videos:
            if "key" in video:
                with np.load(folder / f"{video['key']}.npz", allow_pickle=False) as arrays:
                    if f"{name}/real" in arrays:
                        made.append(arrays[f"{name}/generated"])
                        real.append(arrays[f"{name}/real"])
        enough = made and min(sum(map(len, made)), sum(map(len, real))) >= 2
        distances[name] = frechet_distance(np.concatenate(made), np.concatenate(real)) if enough else None
    return distances


@dataclass(frozen=True)
class Summary:
    """A metric over videos: mean with its 95 % bootstrap interval, median, number of videos."""

    mean: float
    low: float
    high: float
    median: float
    videos: int


def summarize(values: Sequence[float], seed: int = 0) -> Summary:
    """Mean over videos, and the percentile bootstrap of it [Efron 1979]; videos are resampled, not frames."""
    return _summarized(tuple(float(value) for value in values), seed)


@lru_cache(maxsize=4096)  # a benchmark's tables show each several times
def _summarized(values: tuple[float, ...], seed: int) -> Summary:
    x = np.asarray(values, np.float64)
    if not len(x):
        raise ValueError("no value to summarize")
    rng = np.random.default_rng(seed)
    parts = RESAMPLES // PART
    with np.errstate(invalid="ignore"):
        means = np.sort([x[rng.integers(0, len(x), (PART, len(x)))].mean(1) for _ in range(parts)], axis=None)
    low, high = (
        means[int(0.025 * RESAMPLES)],
        means[int(0.975 * RESAMPLES) - 1],
    )  # no interpolation: inf stays inf
    return Summary(float(x.mean()), float(low), float(high), float(np.median(x)), len(x))


def summaries(results: Results) -> dict[str, Summary]:
    """Summarize each metric that at least one video has."""
    found = {}
    for name in (name for name in results.settings.metrics if name in MEASURES):
        values = [
            float(v["values"][name]) for v in results.videos if v.get("values", {}).get(name) is not None
        ]
        if values:
            found[name] = summarize(values)
    return found
