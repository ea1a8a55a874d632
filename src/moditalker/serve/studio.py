"""Behind the page: visitors and their files, one queue with one worker, limits. Knows no web framework."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from moditalker.errors import UserError
from moditalker.features.face.tracker import Choice
from moditalker.serve.tasks import Made, Order, Seen, looking, making
from moditalker.serve.worker import Stopped, Worker

PATIENCE_SECONDS = 120.0  # that looking at a file may take
SWEEP_SECONDS = 30.0  # between looks for files that are too old


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask for; the page says so beforehand."""

    megabytes: int = 200  # of a file
    seconds: float = 60.0  # of speech
    characters: int = 1000  # of typed text
    waiting: int = 8  # videos in the queue
    making: float = 1800.0  # seconds that one video may take
    keeping: float = 3600.0  # seconds until files of a page that stays open are deleted


@dataclass(eq=False)
class Job:
    """A video in the queue or in the making; `future` becomes what was `Made`, a `UserError` or `Stopped`."""

    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    future: Future[Made] = field(default_factory=Future)
    stage: str = ""  # "" while it waits
    done: int = 0
    total: int = 1
    since: float = 0.0  # when the stage began, of time.monotonic()

    def report(self, stage: str, done: int, total: int) -> None:
        """How far the work is."""
        if stage != self.stage:
            self.since = time.monotonic()
        self.stage, self.done, self.total = stage, done, max(total, done, 1)

    @property
    def left(self) -> float | None:
        """Seconds that the stage will take yet; None where it cannot be told."""
        if not 0 < self.done <= self.total:
            return None
        return (time.monotonic() - self.since) * (self.total - self.done) / self.done

    @property
    def cancelled(self) -> bool:
        return self.future.cancelled() or (
            self.future.done() and isinstance(self.future.exception(), Stopped)
        )

    def cancel(self) -> None:
        """End it, whether it waits or runs."""
        self.stop.set()
        self.future.cancel()


@dataclass(eq=False)
class Visitor:
    """One open page. folder: what was made for it; files: what it gave."""

    folder: Path
    files: set[Path] = field(default_factory=set)
    face: Path | None = None
    seen: Seen | None = None
    chosen: int | None = None  # face that was asked for; None: the largest
    job: Job | None = None
    active: float = field(default_factory=time.monotonic)

    def speaking(self) -> Path:
        """The file of the face. Raises UserError where none was given."""
        if self.face is None:
            raise UserError("there is no face yet; give a picture or a video that shows one")
        return self.face

    def choice(self) -> Choice:
        """Which of its faces, as `FaceTracker.track` wants it."""
        if self.seen is None or self.chosen is None:
            return "largest"
        x0, y0, x1, y1 = self.seen.faces[self.chosen]
        return (x0 + x1) / 2, (y0 + y1) / 2


class Studio:
    """Takes visitors' orders.

    root: the folder of all their files, which nobody else may read; it is deleted by `close`.
    """

    def __init__(self, preset: str = "tiny", device: str = "cpu", limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.root = Path(tempfile.mkdtemp(prefix="moditalker-")).resolve()  # mode 0700
        self._maker, self._looker = Worker(making, preset, device), Worker(looking)
        self._pool = ThreadPoolExecutor(1, "studio")
        self._visitors: dict[str, Visitor] = {}
        self._jobs: list[Job] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._sweep, daemon=True).start()

    def ready(self) -> None:
        """Wait until the networks are loaded. Raises UserError where they cannot be."""
        self._looker.prepared()
        self._maker.prepared()

    def close(self) -> None:
        """End all work and delete all files."""
        self._closed.set()
        for job in list(self._jobs):
            job.cancel()
        self._pool.shutdown()
        self._maker.close()
        self._looker.close()
        shutil.rmtree(self.root, ignore_errors=True)

    # ------------------------------------------------------------------------------------------ visitors

    def visitor(self, session: str) -> Visitor:
        """The visitor of a page that is open; `session` is the page's own secret."""
        with self._lock:
            if session not in self._visitors:
                folder = self.root / secrets.token_urlsafe(24)
                folder.mkdir()
                self._visitors[session] = Visitor(folder)
            visitor = self._visitors[session]
        visitor.active = time.monotonic()
        return visitor

    def leave(self, session: str) -> None:
        """A page was closed: its work ends and its files go, except what another page gave too."""
        with self._lock:
            visitor = self._visitors.pop(session, None)
            if visitor is None:
                return
            others = {path for other in self._visitors.values() for path in other.files}
        if visitor.job is not None:
            visitor.job.cancel()
        shutil.rmtree(visitor.folder, ignore_errors=True)
        for path in visitor.files - others:
            if path.is_relative_to(self.root):
                path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Delete what is older than it may be, whoever left it behind."""
        while not self._closed.wait(min(SWEEP_SECONDS, self.limits.keeping / 2)):
            oldest = time.monotonic() - self.limits.keeping
            for session, visitor in list(self._visitors.items()):
                working = visitor.job is not None and not visitor.job.future.done()
                if visitor.active < oldest and not working:
                    self.leave(session)
            kept = {path for visitor in list(self._visitors.values()) for path in visitor.files}
            folders = {visitor.folder for visitor in list(self._visitors.values())}
            for path in self.root.rglob("*"):
                with suppress(OSError):
                    old = time.time() - path.stat().st_mtime > self.limits.keeping
                    if old and path.is_file() and path not in kept and not folders & set(path.parents):
                        path.unlink()

    # ------------------------------------------------------------------------------------------ orders

    def look(self, session: str, face: Path) -> Seen:
        """Find the faces of a picture or video. Raises UserError where there is none."""
        visitor = self.visitor(session)
        if visitor.face == face and visitor.seen is not None:
            return visitor.seen
        self.forget(session)
        visitor.files.add(face)
        out = visitor.folder / f"{secrets.token_urlsafe(8)}.jpg"
        seen: Seen = self._looker(_ignored, self._closed.is_set, PATIENCE_SECONDS, path=face, out=out)
        visitor.face, visitor.seen = face, seen
        return seen

    def forget(self, session: str) -> None:
        """There is no face any more."""
        visitor = self.visitor(session)
        visitor.face, visitor.seen, visitor.chosen = None, None, None

    def borrow(self, session: str, path: Path) -> Path:
        """A copy, among the visitor's files, of one that comes along."""
        copy = self.visitor(session).folder / path.name
        if not copy.exists():
            shutil.copyfile(path, copy)
        return copy

    def listen(self, session: str, audio: Path) -> float:
        """Length of a sound in seconds. Raises UserError where it cannot be used."""
        self.visitor(session).files.add(audio)
        most = self.limits.seconds
        seconds: float = self._looker(_ignored, self._closed.is_set, PATIENCE_SECONDS, path=audio, most=most)
        return seconds

    def make(self, session: str, order: Order) -> Job:
        """Put a video into the queue.

        Raises:
            UserError: too long a text, or too many videos wait.
        """
        if len(order.text) > self.limits.characters:
            raise UserError(
                f"a text of {len(order.text)} characters; at most {self.limits.characters} are spoken: cut it"
            )
        visitor = self.visitor(session)
        if visitor.job is not None:
            visitor.job.cancel()
        job = Job(visitor.folder / secrets.token_urlsafe(16))
        with self._lock:
            if len(self._jobs) > self.limits.waiting:
                raise UserError(f"{len(self._jobs)} videos wait already; try again in some minutes")
            self._jobs.append(job)
            visitor.job = job
            job.future = self._pool.submit(self._make, job, order, visitor)
        job.future.add_done_callback(lambda _: self._jobs.remove(job))
        return job

    def cancel(self, session: str) -> None:
        """End the visitor's video."""
        if (job := self.visitor(session).job) is not None:
            job.cancel()

    def before(self, job: Job) -> int:
        """How many videos are made before this one."""
        jobs = list(self._jobs)
        return jobs.index(job) if job in jobs else 0

    def _make(self, job: Job, order: Order, visitor: Visitor) -> Made:
        try:
            job.folder.mkdir()
            made: Made = self._maker(
                job.report,
                job.stop.is_set,
                self.limits.making,
                order=order,
                folder=job.folder,
                most=self.limits.seconds,
            )
            return made
        except BaseException:
            shutil.rmtree(job.folder, ignore_errors=True)
            raise
        finally:
            visitor.active = time.monotonic()  # from now on the video may be looked at


def _ignored(stage: str, done: int, total: int) -> None:
    """Progress that nobody waits for."""
