"""Live sessions: sound goes to a worker, and frames come back."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing.connection import Connection

from moditalker.errors import UserError
from moditalker.jobs.pool import Outcome, Pool
from moditalker.serve.errors import Full, sentence_of
from moditalker.serve.limits import Limits
from moditalker.serve.orders import LiveJob, Upload, begin
from moditalker.talker.options import Options

PREPARING = 60  # s that a worker may take before a session


@dataclass
class Session:
    """A live session as the server has it.

    line: to its worker. theirs: the worker's end, which is closed here once the worker has it. ended: the
    sentence of an error, or "". stop: ends the session at once.
    """

    line: Connection
    theirs: Connection
    ended: Future[str]
    stop: Callable[[], None]

    def cut(self) -> None:
        """End the traffic in both directions; waiting calls return."""
        with suppress(OSError), socket.socket(fileno=os.dup(self.line.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


class LiveSessions:
    """The live sessions of a service; workers start with the first one.

    model: of the workers; "": there are no live sessions.
    """

    def __init__(self, model: str, device: str, limits: Limits) -> None:
        self.model, self.device, self.limits = model, device, limits
        self._places = threading.BoundedSemaphore(max(1, limits.live))

    @property
    def possible(self) -> bool:
        """Whether there are live sessions."""
        return bool(self.model and self.limits.live)

    @cached_property
    def pool(self) -> Pool[LiveJob, None]:
        """The workers."""
        return Pool(partial(begin, "live_worker", self.model, self.device), self.limits.live, lasting=True)

    def begin(self, face: Upload, rate: int, deadline: float, options: Options) -> Session:
        """Begin a session.

        Args:
            rate: samples of sound in a second. deadline: seconds, as for `MoDiTalker.stream`.

        Raises:
            UserError: there are no live sessions, or all are taken.
        """
        if not self.possible:
            raise UserError("there are no live sessions here; make a video instead")
        if not self._places.acquire(blocking=False):
            raise Full(f"all live sessions are taken ({self.limits.live}); try again in some minutes")
        ours, theirs = multiprocessing.Pipe()
        ended: Future[str] = Future()

        def done(outcome: Outcome[LiveJob, None]) -> None:
            self._places.release()
            theirs.close()
            ended.set_result("" if not outcome.error or outcome.stopped else sentence_of(outcome))

        call = LiveJob(face, theirs, rate, deadline, options)
        task = self.pool.submit(call, done, seconds=self.limits.live_seconds + PREPARING, again=False)
        return Session(ours, theirs, ended, partial(self.pool.stop, task))

    def close(self) -> None:
        """End all sessions."""
        if "pool" in self.__dict__:
            self.pool.close()
