"""The service behind page and API: files come in, jobs wait, workers do them, results are kept for a while.

All that must outlive the process is in `Store`; how far a job is, is not.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from moditalker.errors import UserError
from moditalker.jobs.files import claimed
from moditalker.jobs.pool import Outcome, Pool, Start, Task
from moditalker.serve.forms import Wishes
from moditalker.serve.limits import Limits
from moditalker.serve.store import OPEN, Row, Store
from moditalker.serve.tasks import PICTURE, Call, Given, Glance, Order, Seen, living, looking, making
from moditalker.talker.options import Options

SWEEP_SECONDS = 30.0  # between looks for files that are too old
STARTS = 3  # times that a job may be running while the service dies
CRASHED = "the file made the program that reads it fail; it is damaged: export it again, or give another"
BUG = "something went wrong inside, which is not your fault; the server's log has more"


class Full(UserError):
    """There is no room now: in the queue, on the disk, or among the live sessions."""


class Absent(UserError):
    """There is no such file or job."""


@dataclass
class Progress:
    """How far a job is, which no table knows. since: when its stage began, of time.monotonic()."""

    task: Task[Order, None] | None = None
    stage: str = ""  # "" while it waits
    done: int = 0
    total: int = 1
    since: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """That the stage will take yet; None where it cannot be told."""
        if not 0 < self.done <= self.total:
            return None
        return (time.monotonic() - self.since) * (self.total - self.done) / self.done


class Service:
    """Takes visitors' orders.

    Args:
        folder: for all that is kept; one service at a time has it.
        models: names or folders of weights; the first is taken unless a job asks for another.
        live: the model that speaks live; "": none does.
        device: "cpu", "cuda" or "mps". workers: videos that are made at a time. cluster: as for `work`.
        starts: what workers do, in place of looking at files and making videos.

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
        starts: tuple[Start[Glance, Any], Start[Order, None]] | None = None,
    ) -> None:
        self.limits, self.live, self.device = limits or Limits(), live, device
        self.models = {Path(model).name: model for model in models}
        self._open = ExitStack()
        self._open.enter_context(claimed(folder))
        folder.chmod(0o700)
        self.store = Store(folder)
        self.store.tidy()
        look, make = starts or (looking, partial(making, tuple(models), device))
        self.looker: Pool[Glance, Any] = Pool(look, lasting=True)
        self.maker: Pool[Order, None] = Pool(make, workers, cluster, int(device == "cuda"), lasting=True)
        self.ended = dict.fromkeys(("made", "failed", "cancelled"), 0)  # jobs since the start, for metrics
        self.used = self.store.size()
        self._progress: dict[str, Progress] = {}
        self._lock = threading.RLock()
        self._calls = threading.BoundedSemaphore(max(1, self.limits.live))
        self._closed = threading.Event()
        self._recover()
        self._sweeper = threading.Thread(target=self._sweep, daemon=True)
        self._sweeper.start()

    def ready(self) -> None:
        """Wait until the networks are loaded. Raises UserError where they cannot be."""
        self.looker.ready()
        self.maker.ready()

    def close(self) -> None:
        """End all work. Jobs that are not done stay in the queue, for the next start."""
        self._closed.set()
        self._sweeper.join()
        self.looker.close()
        self.maker.close()
        if "_caller" in self.__dict__:
            self._caller.close()
        self.store.close()
        self._open.close()

    # --------------------------------------------------------------------------------------------- files

    def take(self, owner: str, kind: str, name: str, size: int, content: IO[bytes]) -> str:
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
        if self.used + size > 1e6 * self.limits.disk:
            raise Full("there is no room for more files now; try again later")
        self.used += size
        return self.store.keep(owner, kind, name, content)

    def look(self, owner: str, number: str) -> Future[Seen]:
        """Find the faces of a picture or video. The future raises UserError where there is none."""
        file = self.given(owner, "face", number)
        glance = Glance(file, out=self.store.files / f"{number}.jpg")
        return self._glance(number, glance, asdict)

    def listen(self, owner: str, number: str) -> Future[float]:
        """Length of a sound in seconds. The future raises UserError where it cannot be used."""
        glance = Glance(self.given(owner, "audio", number), most=self.limits.seconds)
        return self._glance(number, glance, lambda seconds: {"seconds": seconds})

    def _glance(self, number: str, glance: Glance, facts: Callable[[Any], Row]) -> Future[Any]:
        answer: Future[Any] = Future()

        def done(outcome: Outcome[Glance, Any]) -> None:
            if outcome.error:
                self.store.drop_files([number])
                answer.set_exception(UserError(said(outcome)))
                return
            self.store.note(number, facts(outcome.result))
            answer.set_result(outcome.result)

        self.looker.submit(glance, done, seconds=self.limits.looking)
        return answer

    def given(self, owner: str, kind: str, number: str) -> Given:
        """A visitor's file. Raises Absent."""
        if (row := self.store.file(owner, kind, number)) is None:
            raise Absent(f"{kind} {number!r}: there is no such file any more; send it again")
        return Given(self.store.files / number, row["name"])

    # --------------------------------------------------------------------------------------------- jobs

    def order(self, owner: str, wishes: Wishes, key: str | None = None) -> Row:
        """Put a job into the queue.

        Args:
            key: chosen by the visitor; the same key gives the same job again, and no second one.

        Raises:
            UserError: something that cannot be used; too many jobs wait.
        """
        if known := self.keyed(owner, key):
            return known
        if len(wishes.text) > self.limits.characters:
            most = self.limits.characters
            raise UserError(f"a text of {len(wishes.text)} characters; at most {most} are spoken: cut it")
        if wishes.model and wishes.model not in self.models:
            raise UserError(f"model {wishes.model!r}: there is {', '.join(self.models)}")
        wishes.options()
        number = secrets.token_urlsafe(16)
        job = {"id": number, "owner": owner, "key": key, "state": "waiting", "created": time.time()}
        job |= {"face": wishes.face, "audio": wishes.audio, "head": wishes.head_file}
        self._order(job | {"wishes": wishes.model_dump_json()})  # a file that is not there is told
        with self._lock:
            self.check_room()
            if not self.store.add(job | {"wishes": wishes.model_dump_json()}):
                return self.keyed(owner, key) or job
            self._progress[number] = Progress()
        self._submit(self.store.job(owner, number) or job)
        return self.job(owner, number)

    def check_room(self) -> None:
        """Raise Full where no more jobs may wait."""
        if (count := len(self._progress)) >= self.limits.waiting + self.maker.workers:
            raise Full(f"{count} videos wait already; try again in some minutes")

    def keyed(self, owner: str, key: str | None) -> Row | None:
        """The visitor's job of a key, if there is one."""
        found = self.store.ask("SELECT * FROM jobs WHERE owner = ? AND key = ?", owner, key) if key else []
        return found[0] if found else None

    def job(self, owner: str, number: str) -> Row:
        """A visitor's job. Raises Absent."""
        if (row := self.store.job(owner, number)) is None:
            raise Absent(f"job {number!r}: there is no such job any more; list them, or make it again")
        return row

    def jobs(self, owner: str, limit: int = -1, offset: int = 0) -> list[Row]:
        """A visitor's jobs, the newest first; limit -1: all of them."""
        query = "SELECT * FROM jobs WHERE owner = ? ORDER BY created DESC LIMIT ? OFFSET ?"
        return self.store.ask(query, owner, limit, offset)

    def end(self, owner: str, number: str) -> None:
        """Cancel a job that waits or runs; delete one that has ended. Raises Absent."""
        self.job(owner, number)
        if self.store.tell(
            f"UPDATE jobs SET state = 'cancelled', ended = ? WHERE id = ? AND {OPEN}", time.time(), number
        ):
            progress = self._progress.get(number)
            if progress is not None and progress.task is not None:
                self.maker.stop(progress.task)
            self.ended["cancelled"] += 1
        else:
            self.store.drop_job(number)

    def forget(self, owner: str) -> None:
        """Delete all that is a visitor's."""
        for row in self.jobs(owner):
            if row["state"] in ("waiting", "running"):
                self.end(owner, row["id"])
            self.end(owner, row["id"])
        files = self.store.ask("SELECT id FROM files WHERE owner = ?", owner)
        self.store.drop_files(row["id"] for row in files)

    def progress(self, number: str) -> tuple[Progress, int]:
        """How far a job is, and how many are done before it."""
        with self._lock:
            ahead = list(self._progress).index(number) if number in self._progress else 0
            return self._progress.get(number, Progress()), ahead

    @property
    def waiting(self) -> int:
        """Jobs that wait or are being done."""
        return len(self._progress)

    def result(self, owner: str, number: str, name: str) -> Path:
        """A file that was made for a job. Raises Absent."""
        row = self.job(owner, number)
        path = self.store.jobs / number / "made" / name
        if row["state"] == "running" and name == PICTURE:
            path = self.store.jobs / number / f"try-{row['starts']}" / name
        elif row["state"] != "made":
            raise Absent(f"job {number!r}: is {row['state']}; its result is there once it is made")
        if not path.is_file():
            raise Absent(f"job {number!r}: there is no {name} of it")
        return path

    def _order(self, row: Row) -> Order:
        wishes = Wishes.model_validate_json(row["wishes"])
        owner = row["owner"]
        return Order(
            self.given(owner, "face", row["face"]),
            self.store.jobs / row["id"] / f"try-{row.get('starts', 0)}",
            audio=self.given(owner, "audio", row["audio"]) if row["audio"] else None,
            text=wishes.text,
            voice=wishes.voice,
            model=self.models.get(wishes.model) or next(iter(self.models.values())),
            options=wishes.options(),
            most=self.limits.seconds,
            compare=wishes.compare,
            head=self.given(owner, "head", row["head"]) if row["head"] else None,
        )

    def _submit(self, row: Row) -> None:
        number = row["id"]
        try:
            order = self._order(row)
        except UserError as error:
            self._finish(number, "failed", str(error))
            return
        with self._lock:
            progress = self._progress.setdefault(number, Progress())
            progress.task = self.maker.submit(
                order, partial(self._done, number), partial(self._report, number), self.limits.making
            )
        if not self.store.ask(f"SELECT id FROM jobs WHERE id = ? AND {OPEN}", number):
            self.maker.stop(progress.task)  # it was cancelled meanwhile

    def _report(self, number: str, stage: str, done: int, total: int) -> None:
        progress = self._progress.get(number)
        if progress is None:
            return
        if not progress.stage:
            self.store.tell(
                "UPDATE jobs SET state = 'running', began = ? WHERE id = ? AND state = 'waiting'",
                *(time.time(), number),
            )
        if stage != progress.stage:
            progress.since = time.monotonic()
        progress.stage, progress.done, progress.total = stage, done, max(total, done, 1)

    def _done(self, number: str, outcome: Outcome[Order, None]) -> None:
        if outcome.stopped and self._closed.is_set():
            return  # it will be done after the next start
        if outcome.error:
            self._finish(number, "failed", said(outcome))
            return
        outcome.item.folder.rename(self.store.jobs / number / "made")  # whole, or not there
        self._finish(number, "made")

    def _finish(self, number: str, state: str, error: str = "") -> None:
        """The end of a job, unless it was cancelled before; what is not wanted is deleted."""
        counts = self.store.tell(
            f"UPDATE jobs SET state = ?, error = ?, ended = ? WHERE id = ? AND {OPEN}",
            *(state, error, time.time(), number),
        )
        self.ended[state] += counts
        if not counts or state != "made":
            self.store.clear(number)
        with self._lock:
            self._progress.pop(number, None)

    def _recover(self) -> None:
        """Take up the jobs that an earlier process left."""
        for row in self.store.ask(f"SELECT * FROM jobs WHERE {OPEN} ORDER BY created"):
            number = row["id"]
            if (self.store.jobs / number / "made").is_dir():
                self._finish(number, "made")
                continue
            self.store.clear(number)
            starts = row["starts"] + (row["state"] == "running")
            self.store.tell("UPDATE jobs SET state = 'waiting', starts = ? WHERE id = ?", starts, number)
            if starts >= STARTS:
                self._finish(number, "failed", CRASHED)
            else:
                self._submit(row | {"starts": starts})

    def _sweep(self) -> None:
        """Delete what is older than it may be."""
        while not self._closed.wait(min(SWEEP_SECONDS, self.limits.keeping / 2)):
            before = time.time() - self.limits.keeping
            for row in self.store.ask(f"SELECT id FROM jobs WHERE ended < ? AND NOT {OPEN}", before):
                self.store.drop_job(row["id"])
            self.store.drop_files(self.store.unused(before))
            self.used = self.store.size()

    # --------------------------------------------------------------------------------------------- live

    @cached_property
    def _caller(self) -> Pool[Call, None]:
        living_model = partial(living, self.live, self.device)
        return Pool(living_model, max(1, self.limits.live), lasting=True)

    def call(self, owner: str, face: str, rate: int, deadline: float, options: Options) -> Session:
        """Begin a live session.

        Raises:
            UserError: no such face; no live sessions here, or no place among them.
        """
        if not self.live or not self.limits.live:
            raise UserError("there are no live sessions here; make a video instead")
        given = self.given(owner, "face", face)
        if not self._calls.acquire(blocking=False):
            raise Full(f"all live places are taken, of {self.limits.live}; try again in some minutes")
        ours, theirs = multiprocessing.Pipe()
        ended: Future[str] = Future()

        def done(outcome: Outcome[Call, None]) -> None:
            self._calls.release()
            theirs.close()
            ended.set_result("" if not outcome.error or outcome.stopped else said(outcome))

        call = Call(given, theirs, rate, deadline, options)
        task = self._caller.submit(call, done, seconds=self.limits.live_seconds + 60, again=False)
        return Session(ours, ended, partial(self._caller.stop, task), theirs)


@dataclass
class Session:
    """A live session as the server has it.

    line: to its worker; ended: becomes the sentence that it failed with, or ""; stop: ends it at once.
    theirs: the worker's end, closed here once the worker has it.
    """

    line: Connection
    ended: Future[str]
    stop: Callable[[], None]
    theirs: Connection

    def cut(self) -> None:
        """Nothing goes either way any more; whoever waits at the line goes on."""
        with suppress(OSError), socket.socket(fileno=os.dup(self.line.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


def said(outcome: Outcome[Any, Any]) -> str:
    """The sentence for a visitor."""
    if outcome.details:
        print(outcome.details, flush=True)
        return BUG
    return CRASHED if outcome.deaths else outcome.error
