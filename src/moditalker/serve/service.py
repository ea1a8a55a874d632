"""The service behind page and API: it stores files, queues jobs, has workers do them, and keeps the results.

`Store` holds what must outlive the process; the progress of a job need not.
"""

from __future__ import annotations

import errno
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from moditalker.errors import UserError
from moditalker.jobs.files import claimed
from moditalker.jobs.pool import Outcome, Pool, Start, Task
from moditalker.serve.errors import BUG, CRASHED, DISK_FULL, Absent, Full, sentence_of
from moditalker.serve.forms import JobRequest
from moditalker.serve.limits import Limits
from moditalker.serve.orders import PICTURE, FoundFaces, Inspection, Upload, VideoJob, begin
from moditalker.serve.sessions import LiveSessions
from moditalker.serve.store import OPEN, Row, Store

SWEEP_SECONDS = 30.0  # between looks for files that are too old
STARTS = 3  # times that a job may be running while the service dies
LOOKS = 16  # files that may wait to be looked at


@dataclass
class Progress:
    """The progress of a job, which is in no table. since: when its stage began, of time.monotonic()."""

    task: Task[VideoJob, None] | None = None
    stage: str = ""  # "" while it waits
    done: int = 0
    total: int = 1
    since: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Until the stage ends; None if it is unknown."""
        if not 0 < self.done <= self.total:
            return None
        return (time.monotonic() - self.since) * (self.total - self.done) / self.done


class Service:
    """Files, queue, workers and results.

    Args:
        folder: for files and jobs; one service at a time uses it.
        models: names or folders of weights; the first is taken unless a job asks for another.
        live: the model that speaks live; "": none does.
        device: "cpu", "cuda" or "mps". workers: videos that are made at a time. cluster: as for `work`.
        starts: replace the functions that workers begin with: `face_worker`, `video_worker` of `tasks`.

    Raises:
        UserError: the folder cannot be used, or another service has it.
    """

    def __init__(
        self,
        folder: Path,
        models: Sequence[str] = ("tiny",),
        live: str = "live",
        device: str = "cpu",
        workers: int = 1,
        limits: Limits | None = None,
        cluster: str | None = None,
        starts: tuple[Start[Inspection, Any], Start[VideoJob, None]] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.models = {Path(model).name: model for model in models}
        self._open = ExitStack()
        self._open.enter_context(claimed(folder))
        folder.chmod(0o700)
        try:
            self.store = Store(folder)
        except UserError:
            self._open.close()
            raise
        self.store.tidy()
        look, make = starts or (
            partial(begin, "face_worker"),
            partial(begin, "video_worker", tuple(models), device),
        )
        self.looker: Pool[Inspection, Any] = Pool(look, lasting=True)
        self.maker: Pool[VideoJob, None] = Pool(make, workers, cluster, int(device == "cuda"), lasting=True)
        self.ended = dict.fromkeys(("made", "failed", "cancelled"), 0)  # jobs since the start, for metrics
        self.used = self.store.size()
        self.arriving = 0  # bytes of forms that are being sent
        self._progress: dict[str, Progress] = {}
        self._late: dict[str, tuple[str, str]] = {}  # ends of jobs that the disk had no room for
        self._inspected = 0  # files that are looked at, or wait for that
        self._lock = threading.RLock()
        self.sessions = LiveSessions(live, device, self.limits)
        self._closed = threading.Event()
        self._recover()
        self._sweeper = threading.Thread(target=self._sweep, daemon=True)
        self._sweeper.start()

    def ready(self) -> None:
        """Wait until the networks are loaded. Raises UserError if they cannot be."""
        self.looker.ready()
        self.maker.ready()

    def close(self) -> None:
        """End all work. Jobs that are not done stay in the queue, for the next start."""
        self._closed.set()
        self._sweeper.join()
        self.looker.close()
        self.maker.close()
        self.sessions.close()
        self.store.close()
        self._open.close()

    # --------------------------------------------------------------------------------------------- files

    def add_file(self, owner: str, kind: str, name: str, size: int, content: IO[bytes]) -> str:
        """Keep a file ("face", "audio" or "head"); its id.

        Raises:
            UserError: it is empty, or too large; the disk is full.
        """
        name = "".join(filter(str.isprintable, name.replace("\\", "/").rpartition("/")[2]))[-100:] or kind
        if not size:
            raise UserError(f"{name}: is empty; give another file")
        if size > self.limits.bytes:
            raise UserError(
                f"{name}: {size / 1e6:.1f} MB; at most {self.limits.megabytes:g} MB are taken: give a "
                "smaller file"
            )
        self.check_disk(size)
        self.used += size
        try:
            return self.store.add_file(owner, kind, name, content)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise Full(DISK_FULL) from error

    def check_disk(self, size: int) -> None:
        """Raise Full if there is no room for so many more bytes."""
        if self.used + size > 1e6 * self.limits.disk:
            raise Full(DISK_FULL)

    def find_faces(self, owner: str, identifier: str) -> Future[FoundFaces]:
        """Find the faces of a picture or video. The future raises UserError if there is none."""
        file = self.file(owner, "face", identifier)
        inspection = Inspection(file, out=self.store.files / f"{identifier}.jpg")
        return self._inspect(identifier, inspection, asdict)

    def measure_sound(self, owner: str, identifier: str) -> Future[float]:
        """Length of a sound in seconds. The future raises UserError if it cannot be used."""
        inspection = Inspection(self.file(owner, "audio", identifier), most=self.limits.seconds)
        return self._inspect(identifier, inspection, lambda seconds: {"seconds": seconds})

    def _inspect(self, identifier: str, inspection: Inspection, facts: Callable[[Any], Row]) -> Future[Any]:
        answer: Future[Any] = Future()
        with self._lock:
            if self._inspected >= LOOKS:
                self.store.drop_files([identifier])
                raise Full(f"{LOOKS} files wait to be looked at already; try again in a minute")
            self._inspected += 1

        def done(outcome: Outcome[Inspection, Any]) -> None:
            with self._lock:
                self._inspected -= 1
            if outcome.error:
                self.store.drop_files([identifier])
                answer.set_exception(UserError(sentence_of(outcome)))
                return
            try:
                self.store.set_facts(identifier, facts(outcome.result))
            except Full as error:
                self.store.drop_files([identifier])
                answer.set_exception(error)
                return
            answer.set_result(outcome.result)

        self.looker.submit(inspection, done, seconds=self.limits.looking)
        return answer

    def file(self, owner: str, kind: str, identifier: str) -> Upload:
        """A visitor's file. Raises Absent."""
        if (row := self.store.file(owner, kind, identifier)) is None:
            raise Absent(f"{kind} {identifier!r}: there is no such file any more; send it again")
        return Upload(self.store.files / identifier, row["name"])

    # --------------------------------------------------------------------------------------------- jobs

    def add_job(self, owner: str, request: JobRequest, key: str | None = None) -> Row:
        """Put a job into the queue.

        Args:
            key: chosen by the visitor; the same key gives the same job again, and no second one.

        Raises:
            UserError: something that cannot be used; too many jobs wait.
        """
        if known := self.job_of_key(owner, key):
            return known
        if len(request.text) > self.limits.characters:
            most = self.limits.characters
            raise UserError(f"a text of {len(request.text)} characters; at most {most} are spoken: cut it")
        if request.model and request.model not in self.models:
            raise UserError(f"model {request.model!r}: there is {', '.join(self.models)}")
        request.options()
        identifier = secrets.token_urlsafe(16)
        job = {"id": identifier, "owner": owner, "key": key, "state": "waiting", "created": time.time()}
        job |= {"face": request.face, "audio": request.audio, "head": request.head_file}
        job["request"] = request.model_dump_json()
        self._order(job)  # raises Absent for a file that is not there
        with self._lock:
            self.check_room()
            if not self.store.add_job(job):
                return self.job_of_key(owner, key) or job
            self._progress[identifier] = Progress()
        self._submit(self.store.job(owner, identifier) or job)
        return self.job(owner, identifier)

    def check_room(self) -> None:
        """Raise Full if no more jobs may wait."""
        if len(self._progress) >= (limit := self.limits.waiting) + self.maker.workers:
            raise Full(f"the queue is full ({limit} videos may wait); try again in a few minutes")

    def job_of_key(self, owner: str, key: str | None) -> Row | None:
        """The visitor's job of a key, if there is one."""
        found = self.store.query("SELECT * FROM jobs WHERE owner = ? AND key = ?", owner, key) if key else []
        return found[0] if found else None

    def job(self, owner: str, identifier: str) -> Row:
        """A visitor's job. Raises Absent."""
        if (row := self.store.job(owner, identifier)) is None:
            raise Absent(f"job {identifier!r}: there is no such job any more; list them, or make it again")
        return row

    def jobs(self, owner: str, limit: int = -1, offset: int = 0) -> list[Row]:
        """A visitor's jobs, the newest first; limit -1: all of them."""
        query = "SELECT * FROM jobs WHERE owner = ? ORDER BY created DESC LIMIT ? OFFSET ?"
        return self.store.query(query, owner, limit, offset)

    def end(self, owner: str, identifier: str) -> None:
        """Cancel a job that waits or runs; delete one that has ended. Raises Absent."""
        self.job(owner, identifier)
        if self.store.execute(
            f"UPDATE jobs SET state = 'cancelled', ended = ? WHERE id = ? AND {OPEN}", time.time(), identifier
        ):
            progress = self._progress.get(identifier)
            if progress is not None and progress.task is not None:
                self.maker.stop(progress.task)
            self.ended["cancelled"] += 1
        else:
            self.store.drop_job(identifier)

    def delete_all(self, owner: str) -> None:
        """Delete all files and jobs of a visitor."""
        for row in self.jobs(owner):
            if row["state"] in ("waiting", "running"):
                self.end(owner, row["id"])
            self.end(owner, row["id"])
        files = self.store.query("SELECT id FROM files WHERE owner = ?", owner)
        self.store.drop_files(row["id"] for row in files)

    def progress(self, identifier: str) -> tuple[Progress, int]:
        """The progress of a job, and the identifier of jobs before it."""
        with self._lock:
            ahead = list(self._progress).index(identifier) if identifier in self._progress else 0
            return self._progress.get(identifier, Progress()), ahead

    @property
    def waiting(self) -> int:
        """Jobs that wait or are being done."""
        return len(self._progress)

    def result(self, owner: str, identifier: str, name: str) -> Path:
        """A result of a job. Raises Absent."""
        row = self.job(owner, identifier)
        path = self.store.jobs / identifier / "made" / name
        if row["state"] == "running" and name == PICTURE:
            path = self.store.jobs / identifier / f"try-{row['starts']}" / name
        elif row["state"] != "made":
            raise Absent(f"job {identifier!r}: is {row['state']}; its result is there once it is made")
        if not path.is_file():
            raise Absent(f"job {identifier!r}: there is no {name} of it")
        return path

    def _order(self, row: Row) -> VideoJob:
        request = JobRequest.model_validate_json(row["request"])
        owner = row["owner"]
        return VideoJob(
            self.file(owner, "face", row["face"]),
            self.store.jobs / row["id"] / f"try-{row.get('starts', 0)}",
            audio=self.file(owner, "audio", row["audio"]) if row["audio"] else None,
            text=request.text,
            voice=request.voice,
            model=self.models.get(request.model) or next(iter(self.models.values())),
            options=request.options(),
            most=self.limits.seconds,
            compare=request.compare,
            head=self.file(owner, "head", row["head"]) if row["head"] else None,
        )

    def _submit(self, row: Row) -> None:
        identifier = row["id"]
        try:
            order = self._order(row)
        except UserError as error:
            self._finish(identifier, "failed", str(error))
            return
        with self._lock:
            progress = self._progress.setdefault(identifier, Progress())
            progress.task = self.maker.submit(
                order, partial(self._done, identifier), partial(self._report, identifier), self.limits.making
            )
        if not self.store.query(f"SELECT id FROM jobs WHERE id = ? AND {OPEN}", identifier):
            self.maker.stop(progress.task)  # it was cancelled meanwhile

    def _report(self, identifier: str, stage: str, done: int, total: int) -> None:
        progress = self._progress.get(identifier)
        if progress is None:
            return
        if not progress.stage:
            with suppress(Full):
                self.store.execute(
                    "UPDATE jobs SET state = 'running', began = ? WHERE id = ? AND state = 'waiting'",
                    *(time.time(), identifier),
                )
        if stage != progress.stage:
            progress.since = time.monotonic()
        progress.stage, progress.done, progress.total = stage, done, max(total, done, 1)

    def _done(self, identifier: str, outcome: Outcome[VideoJob, None]) -> None:
        if outcome.stopped and self._closed.is_set():
            return  # it will be done after the next start
        if outcome.error:
            self._finish(identifier, "failed", sentence_of(outcome))
            return
        try:
            outcome.item.folder.rename(self.store.jobs / identifier / "made")  # whole, or not there
        except OSError:  # it was deleted meanwhile
            self._finish(identifier, "failed", BUG)
        else:
            self._finish(identifier, "made")

    def _finish(self, identifier: str, state: str, error: str = "") -> None:
        """Record the end of a job, unless it was cancelled before; delete results that nobody wants."""
        if state != "made":
            self.store.clear(identifier)  # first, as a full disk has room for the record then
        try:
            counts = self.store.execute(
                f"UPDATE jobs SET state = ?, error = ?, ended = ? WHERE id = ? AND {OPEN}",
                *(state, error, time.time(), identifier),
            )
        except Full:
            self._late[identifier] = state, error
            return
        self.ended[state] += counts
        if not counts:
            self.store.clear(identifier)
        with self._lock:
            self._progress.pop(identifier, None)

    def _recover(self) -> None:
        """Continue with the jobs of an earlier process."""
        for row in self.store.query(f"SELECT * FROM jobs WHERE {OPEN} ORDER BY created"):
            identifier = row["id"]
            if (self.store.jobs / identifier / "made").is_dir():
                self._finish(identifier, "made")
                continue
            self.store.clear(identifier)
            starts = row["starts"] + (row["state"] == "running")
            self.store.execute(
                "UPDATE jobs SET state = 'waiting', starts = ? WHERE id = ?", starts, identifier
            )
            if starts >= STARTS:
                self._finish(identifier, "failed", CRASHED)
            else:
                self._submit(row | {"starts": starts})

    def _sweep(self) -> None:
        """Delete old files and jobs, again and again."""
        while not self._closed.wait(min(SWEEP_SECONDS, self.limits.keeping / 2)):
            before = time.time() - self.limits.keeping
            with suppress(Full):
                for row in self.store.query(f"SELECT id FROM jobs WHERE ended < ? AND NOT {OPEN}", before):
                    self.store.drop_job(row["id"])
                self.store.drop_files(self.store.unused(before))
            self.store.reserve()
            for identifier in list(self._late):
                self._finish(identifier, *self._late.pop(identifier))
            self.used = self.store.size()
