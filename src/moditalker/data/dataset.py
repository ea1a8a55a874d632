"""Makes a dataset in a folder: workers make a part of each video, and parts are joined to shards in order.

The same videos give the same shards, for any number of workers and interruptions. A run that was killed
resumes after the videos that it had finished.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moditalker.config import Config
from moditalker.data.shards import append, shard_writer
from moditalker.data.split import Split
from moditalker.data.videos import Job, Record, find_videos
from moditalker.data.worker import Worker, save_json, settings
from moditalker.errors import UserError
from moditalker.jobs.files import claimed
from moditalker.jobs.pool import Outcome, work

Array = NDArray[Any]

SHARD_BYTES = 1 << 30  # after which a shard is full
REPORT, PARTS = "report.json", "parts"
UNSPLIT = "data"  # in place of a part in the names of shards


class Dataset:
    """The folder of a dataset: its report, its shards, and parts that are in no shard yet."""

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
            before = {key: report["settings"].get(key) for key in self.made_by}
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
        """The record of an earlier run for a video, if the video need not be done again."""
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
        """Join the waiting parts to a shard, write the report, then delete the parts."""
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
        """Make shards of the remaining parts; returns the report."""
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
    progress: Callable[[int, int], None] = lambda done, total: None,
    shard_bytes: int = SHARD_BYTES,
    worker: Callable[..., Callable[[Job], Record]] = Worker,
) -> dict[str, Any]:
    """All videos below a folder -> shards and report.json in ``out``; a run that was killed is resumed.

    Args:
        config: its crop is the samples'.
        split: shards are named by its parts, and videos without a part left out.
        workers, cluster: processes, here or on a Ray cluster whose hosts see both folders under these names.
        progress: called with the number of videos done and of all.
        shard_bytes: after which a shard is full.
        worker: what is started in each process with (config, parts), and called with each job.

    Returns:
        The report: {"settings", "totals", "videos": a `Record` each}.

    Raises:
        UserError: no videos, or ``out`` holds something else.
    """
    made_by = settings(config)
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
        start = partial(worker, config, dataset.parts)
        for done, outcome in enumerate(work(start, todo, workers, cluster), len(jobs) - len(todo) + 1):
            known[outcome.item] = outcome.result or lost(outcome)
            take()
            progress(done, len(jobs))
        return dataset.close()


def lost(outcome: Outcome[Job, Record]) -> Record:
    """The record of a video whose workers died."""
    record = Record.of(outcome.item)
    record.error, record.failed = outcome.error, True
    return record
