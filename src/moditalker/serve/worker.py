"""A process that holds the networks and does one task at a time, and can be ended at any moment.

`moditalker.jobs.pool` does lists of jobs; this does one for somebody who watches, and may change his mind.
Visitors' files are opened only in such a process: one that hangs or crashes a decoder costs its own task, and
the next one finds a fresh process.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from moditalker.errors import UserError
from moditalker.serve.guard import stay_local

Report = Callable[[str, int, int], None]  # a stage's name, steps done, steps in all
Task = Callable[..., Any]  # task(report, **request) -> an answer that can be sent

POLL = 0.1  # s between looks at whether to stop
CRASHED = "the file made the program that reads it fail; it is damaged: export it again, or give another"
BUG = "something went wrong inside, which is not your fault; the server's log has more"


class Stopped(Exception):
    """The task was ended because it was asked for."""


class Worker:
    """One process; `prepare(*arguments)` is called in it once and gives the task. Both are sent by name."""

    def __init__(self, prepare: Callable[..., Task], *arguments: Any) -> None:
        self._prepare = prepare, arguments
        self._busy = threading.Lock()
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._prepare), daemon=True)
        self._process.start()
        self._ready = False
        theirs.close()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def prepared(self) -> None:
        """Wait until the process is ready. Raises UserError where `prepare` does."""
        with self._busy:
            self._get_ready(lambda *_: None, lambda: False, math.inf)

    def __call__(self, report: Report, stop: Callable[[], bool], seconds: float, **request: Any) -> Any:
        """Do the task once those before it are done.

        Args:
            report: told how far it is.
            stop: asked several times a second whether to end it.
            seconds: that it may take.
            request: for the task.

        Raises:
            UserError: the task's own, or that it took too long or crashed.
            Stopped: it was to stop.
        """
        until = time.monotonic() + seconds
        with self._busy:
            answer: Any = None
            try:
                self._get_ready(report, stop, until)
                self._connection.send(request)
                answer = self._answer(report, stop, until)
            except (EOFError, ConnectionError):
                raise UserError(CRASHED) from None
            except TimeoutError:
                raise UserError(
                    f"it took more than {seconds:g} s and was stopped; give something shorter"
                ) from None
            finally:
                if answer is None:  # in the middle of something: the next task gets a process of its own
                    self.close()
                    self._start()
        if isinstance(answer, UserError):
            raise answer
        return answer

    def _get_ready(self, report: Report, stop: Callable[[], bool], until: float) -> None:
        if not self._ready and isinstance(error := self._answer(report, stop, until), UserError):
            raise error
        self._ready = True

    def _answer(self, report: Report, stop: Callable[[], bool], until: float) -> Any:
        """What the process answers next, which is not None."""
        while not stop():
            if time.monotonic() > until:
                raise TimeoutError
            if self._connection.poll(POLL):
                kind, value = self._connection.recv()
                if kind == "answer":
                    return value
                report(*value)
        raise Stopped


def _serve(connection: Connection, prepare: Callable[..., Task], arguments: tuple[Any, ...]) -> None:
    """The process: requests in, progress and answers out, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the server, which ends this process
    stay_local()

    def report(stage: str, done: int, total: int) -> None:
        connection.send(("report", (stage, done, total)))

    def answered(task: Task, *arguments: Any, **request: Any) -> Any:
        try:
            return task(*arguments, **request)
        except UserError as error:
            return error
        except Exception:
            traceback.print_exc()
            return UserError(BUG)

    task = answered(prepare, *arguments)
    failed = isinstance(task, UserError)
    connection.send(("answer", task if failed else "ready"))
    while not failed:
        try:
            request = connection.recv()
        except EOFError:
            return
        connection.send(("answer", answered(task, report, **request)))
