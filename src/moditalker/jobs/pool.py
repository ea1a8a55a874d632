"""Many jobs by a few worker processes, on this machine or, through Ray (extra ``cluster``), on many.

Each worker prepares once (loads its models) and then does one job after the other. A failed job is an
outcome too. A killed worker is replaced, and its job goes to another one. `work` does a list of jobs. A
`Pool` is open: jobs come while others run, report their progress, and may be stopped.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing.connection import Connection, wait
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from moditalker.errors import UserError
from moditalker.jobs.machine import calm

Item = TypeVar("Item")
Result = TypeVar("Result")
Start: TypeAlias = Callable[[], Callable[[Item], Result]]
Reporter: TypeAlias = Callable[[str, int, int], None]  # a stage's name, steps done, steps in all

ATTEMPTS = 2  # workers that a job may cost before it is given up
KILLS = 5  # the same in a service, of workers that were killed from outside
STILLBORN = 3  # workers in a row that may die before they are ready
PATIENCE = 10.0  # s that a worker has to leave in good order
POLL = 0.1  # s between two looks for messages of a cluster
KILLED = (-signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM) if hasattr(signal, "SIGKILL") else ()


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """The outcome of a job: a result, or the sentence of an error.

    details: a traceback if the failure is a bug and no mistake of the user. deaths: workers that died, if the
    job was given up for that. stopped: somebody stopped the job.
    """

    item: Item
    result: Result | None = None
    error: str = ""
    details: str = ""
    deaths: int = 0
    stopped: bool = False


def work(
    start: Start[Item, Result],
    items: Sequence[Item],
    workers: int = 1,
    cluster: str | None = None,
    gpus: int = 0,
) -> Iterator[Outcome[Item, Result]]:
    """Do jobs in worker processes.

    Args:
        start: called once in each worker; gives the function that does a job. Both travel by pickle, as do
            items and results: `start` is a function of a module, or a `functools.partial` of one.
        items: the jobs.
        workers: processes at a time, in all; never more than jobs are left.
        cluster: address of a Ray cluster ("auto", "host:6379", "ray://host:10001"), or "local" for a Ray of
            this machine's own; its hosts need this package and see the same files under the same names.
            Ray listens on the network without authentication: use it only in a trusted network.
        gpus: for each worker of a cluster.

    Yields:
        One outcome for each item, in the order in which they end.

    Raises:
        UserError: what `start` raised; workers that die before they are ready; no Ray, or no such cluster.
    """
    if workers < 1:
        raise UserError(f"workers = {workers}: at least 1 is needed")
    if not items:
        return
    outcomes: SimpleQueue[Outcome[Item, Result]] = SimpleQueue()
    pool = Pool(start, workers if cluster else min(workers, len(items)), cluster, gpus)
    try:
        for item in items:
            pool.submit(item, outcomes.put)
        for _ in items:
            outcome = outcomes.get()
            if pool.failure is not None:
                raise pool.failure
            yield outcome
    finally:
        pool.close()


def report(stage: str, done: int, total: int) -> None:
    """Report the progress of a job, from inside its worker, to whoever submitted it."""
    _told(stage, done, total)


@dataclass(frozen=True)
class _Ready:
    """A worker has started."""


@dataclass(frozen=True)
class _Unfit:
    """A worker could not start: a mistake of the user's, or a bug."""

    error: str
    details: str = ""


@dataclass(frozen=True)
class _Dead:
    """A worker ended by itself, or somebody killed it."""

    how: str
    killed: bool = False


@dataclass(frozen=True)
class _Progress:
    """The progress of a worker's job: the arguments of a `Reporter`."""

    step: tuple[str, int, int]


class _Crew(Protocol):
    """Workers on this machine or a cluster; a worker is any hashable value."""

    def hire(self) -> Any:
        """A new worker, whose first message is `_Ready` or `_Unfit`."""

    def give(self, worker: Any, item: Any) -> None:
        """Give a job to an idle worker; its messages are `_Progress` until the `Outcome`."""

    def hear(self, call: Connection, seconds: float | None) -> list[tuple[Any, Any]]:
        """Wait for messages: (worker, message) pairs; `_Dead` is a worker's last.

        The wait ends after `seconds`, and when something comes over `call`, which is taken off it.
        """

    def end(self, worker: Any) -> None:
        """Kill a worker, whose next message is `_Dead`."""

    def dismiss(self) -> None:
        """End all workers."""


@dataclass(eq=False)
class Task(Generic[Item, Result]):
    """A job in a pool. done: called once with its outcome; both calls come from the pool's own thread."""

    item: Item
    done: Callable[[Outcome[Item, Result]], None]
    report: Reporter
    seconds: float  # that a worker may take
    again: bool  # whether another worker may do it again
    deaths: int = 0  # of workers that died of it
    kills: int = 0  # of those that were killed from outside
    ended: str = ""  # why its worker was killed by us
    stopped: bool = False
    until: float = math.inf  # when its worker will have taken too long, of time.monotonic()


class Pool(Generic[Item, Result]):
    """Worker processes and an open queue before them.

    Args:
        start, workers, cluster, gpus: as for `work`.
        lasting: of a service: workers are hired before there are jobs, and replaced however often they die;
            a job may lose `KILLS` of them to whoever kills from outside.

    Raises:
        UserError: no Ray, or no such cluster.
    """

    def __init__(
        self,
        start: Start[Item, Result],
        workers: int = 1,
        cluster: str | None = None,
        gpus: int = 0,
        lasting: bool = False,
    ) -> None:
        self.failure: Exception | None = None  # why there are no workers any more
        self.deaths = 0  # of workers, so far
        self.workers, self._lasting = workers, lasting
        self._crew: _Crew = _RayCrew(cluster, start, gpus) if cluster else _LocalCrew(start, workers)
        self._waiting: deque[Task[Item, Result]] = deque()
        self._idle: list[Any] = []
        self._busy: dict[Any, Task[Item, Result] | None] = {}  # None: it is starting
        self._stillborn, self._hire_from = 0, 0.0
        self._begun, self._closing = threading.Event(), False
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._call, self._caller = multiprocessing.Pipe(duplex=False)
        self._calling, self._called, self._over = threading.RLock(), False, False
        self._thread = threading.Thread(target=self._supervise, name="pool", daemon=True)
        self._thread.start()

    def submit(
        self,
        item: Item,
        done: Callable[[Outcome[Item, Result]], None],
        report: Reporter = lambda *_: None,
        seconds: float = math.inf,
        again: bool = True,
    ) -> Task[Item, Result]:
        """Put a job at the queue's end.

        Args:
            done: called with what became of it, and report: with how far it is, in the pool's own thread.
            seconds: that a worker may take for it.
            again: whether another worker does it if the first one dies.
        """
        task = Task(item, done, report, seconds, again)
        self._order(lambda: self._waiting.append(task))
        return task

    def stop(self, task: Task[Item, Result]) -> None:
        """End a job, whether it waits or runs; its outcome says `stopped`, unless it had just been done."""
        self._order(lambda: self._stop(task))

    def ready(self) -> None:
        """Wait until a worker is ready. Raises what `start` raised."""
        self._begun.wait()
        if self.failure is not None:
            raise self.failure

    @property
    def up(self) -> bool:
        """Whether a worker has been ready, and more can be had."""
        return self._begun.is_set() and self.failure is None

    def close(self) -> None:
        """End all workers, and all jobs as stopped."""
        self._closing = True
        self._order(lambda: None)
        self._thread.join()

    # ------------------------------------------------------------------------------- in the pool's own thread

    def _order(self, order: Callable[[], None]) -> None:
        with self._calling:
            self._orders.put(order)
            if self._over:
                self._leave()
            elif not self._called:
                self._called = True
                self._caller.send_bytes(b"!")

    def _supervise(self) -> None:
        try:
            while not self._closing:
                self._obey()
                self._hand_out()
                self._hire()
                for worker, message in self._crew.hear(self._call, self._pause()):
                    self._hear(worker, message)
                self._watch()
        except Exception as error:
            self.failure = error
        finally:
            self._begun.set()
            self._crew.dismiss()
            with self._calling:
                self._over = True
                self._leave()
            self._caller.close()
            self._call.close()

    def _obey(self) -> None:
        self._called = False
        with suppress(Empty):
            while True:
                self._orders.get_nowait()()

    def _leave(self) -> None:
        """All jobs that are left end here."""
        self._obey()
        left = [*filter(None, self._busy.values()), *self._waiting]
        self._waiting.clear()
        self._busy.clear()
        for task in left:
            stopped = task.stopped or self.failure is None
            _notify(task.done, Outcome(task.item, error=str(self.failure or "stopped"), stopped=stopped))

    def _hand_out(self) -> None:
        while self._waiting and self._idle:
            task, worker = self._waiting.popleft(), self._idle.pop()
            task.until = time.monotonic() + task.seconds
            self._busy[worker] = task
            self._crew.give(worker, task.item)

    def _hire(self) -> None:
        starting = sum(task is None for task in self._busy.values())
        while time.monotonic() >= self._hire_from:
            wanted = self.workers - len(self._busy) - len(self._idle)
            if wanted <= 0 or not (self._lasting or starting < len(self._waiting)):
                break
            self._busy[self._crew.hire()] = None
            starting += 1

    def _pause(self) -> float | None:
        """Seconds until something is due although no worker says anything; None: nothing is."""
        times = [task.until for task in self._busy.values() if task is not None]
        if self._hire_from > time.monotonic():
            times.append(self._hire_from)
        first = min(times, default=math.inf)
        return max(0.0, first - time.monotonic()) if first < math.inf else None

    def _watch(self) -> None:
        for worker, task in self._busy.items():
            if task is not None and not task.ended and time.monotonic() > task.until:
                task.ended = f"it took more than {task.seconds:g} s and was stopped; give something shorter"
                self._crew.end(worker)

    def _stop(self, task: Task[Item, Result]) -> None:
        task.stopped = True
        if task in self._waiting:
            self._waiting.remove(task)
            _notify(task.done, Outcome(task.item, error="stopped", stopped=True))
        for worker, other in self._busy.items():
            if other is task and not task.ended:
                task.ended = "stopped"
                self._crew.end(worker)

    def _hear(self, worker: Any, message: Any) -> None:
        if isinstance(message, _Progress):
            if (told := self._busy.get(worker)) is not None:
                _notify(told.report, *message.step)
            return
        known, task = worker in self._busy, self._busy.pop(worker, None)
        if isinstance(message, _Unfit):
            raise UserError(message.error) if not message.details else RuntimeError(message.details)
        if not isinstance(message, _Dead):
            self._idle.append(worker)
            self._stillborn = 0
            self._begun.set()
            if isinstance(message, Outcome) and task is not None:
                _notify(task.done, replace(message, item=task.item))
            return
        if worker in self._idle:
            self._idle.remove(worker)
        if task is not None:
            self._recover(task, message)
        elif known:
            self._stillborn += 1
            self._hire_from = time.monotonic() + (min(self._stillborn, PATIENCE) if self._lasting else 0)
            if self._stillborn > STILLBORN and not self._lasting:
                raise UserError(
                    f"workers die while they start ({message.how}); there may be too little memory: "
                    "use fewer --workers"
                )
        self.deaths += not (task and task.ended)

    def _recover(self, task: Task[Item, Result], message: _Dead) -> None:
        """Do the job of a dead worker again, or give it up."""
        if task.ended:
            _notify(task.done, Outcome(task.item, error=task.ended, stopped=task.stopped))
            return
        kills = self._lasting and message.killed
        task.kills, task.deaths = task.kills + kills, task.deaths + (not kills)
        if task.again and not task.stopped and task.deaths < ATTEMPTS and task.kills < KILLS:
            self._waiting.appendleft(task)
            return
        deaths = task.deaths + task.kills
        why = f"{deaths} workers died while they did it ({message.how})"
        error = f"{why}; it may need more memory: use fewer --workers"
        _notify(task.done, Outcome(task.item, error=error, deaths=deaths, stopped=task.stopped))


def _notify(callback: Callable[..., None], *values: Any) -> None:
    """A callback that fails is a bug of its own: the pool continues."""
    try:
        callback(*values)
    except Exception:
        traceback.print_exc()


def _started(start: Start[Any, Any]) -> tuple[Callable[[Any], Any] | None, _Ready | _Unfit]:
    try:
        return start(), _Ready()
    except UserError as error:
        return None, _Unfit(str(error))
    except Exception as error:
        return None, _Unfit(_unexpected(error), traceback.format_exc())


def _attempted(function: Callable[[Any], Any], item: Any) -> Outcome[Any, Any]:
    try:
        return Outcome(item, function(item))
    except UserError as error:
        return Outcome(item, error=str(error))
    except Exception as error:
        return Outcome(item, error=_unexpected(error), details=traceback.format_exc())


def _unexpected(error: Exception) -> str:
    return f"an unexpected error, {type(error).__name__}: {error}; please report it"


def _unheard(stage: str, done: int, total: int) -> None:
    """Progress that nobody listens to: outside of a worker of this machine."""


_told: Reporter = _unheard


# --------------------------------------------------------------------------------------------- this machine


class _LocalCrew:
    """Processes of this machine, each with its own pipe, so that a dead one blocks no other."""

    def __init__(self, start: Start[Any, Any], workers: int) -> None:
        self.start, self.threads = start, max(1, (os.cpu_count() or 1) // workers)
        self.processes: dict[Any, Any] = {}  # our end of each one's pipe -> the process

    def hire(self) -> Any:
        # Spawned, not forked: a fork of a process with threads, as torch has them, may hang.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.threads), daemon=True)
        process.start()
        theirs.close()
        self.processes[ours] = process
        self.give(ours, self.start)
        return ours

    def give(self, worker: Any, item: Any) -> None:
        with suppress(BrokenPipeError):  # it has died; `hear` will say so
            worker.send(item)

    def hear(self, call: Connection, seconds: float | None) -> list[tuple[Any, Any]]:
        heard = []
        worker: Any
        for worker in wait([*self.processes, call], seconds):
            if worker is call:
                call.recv_bytes()
                continue
            try:
                heard.append((worker, worker.recv()))
            except (EOFError, OSError):  # also in the middle of a message
                worker.close()
                process = self.processes.pop(worker)
                process.join(PATIENCE)
                code = process.exitcode
                heard.append((worker, _Dead(_ending(code), code in KILLED)))
        return heard

    def end(self, worker: Any) -> None:
        self.processes[worker].kill()

    def dismiss(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for worker, process in self.processes.items():
            process.join(PATIENCE)
            if process.exitcode is None:
                process.kill()
                process.join()
            worker.close()
        self.processes.clear()


def _serve(connection: Connection, threads: int) -> None:
    """A worker's life: the first message is `start`, each other one a job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at the keyboard: the parent sees to it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unfinished files go away
    threading.Thread(target=_follow_parent, daemon=True).start()
    calm(threads)  # before anything that counts threads is imported
    global _told
    _told = lambda *step: connection.send(_Progress(step))  # noqa: E731
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has ended
        function, message = _started(connection.recv())
        connection.send(message)
        while function is not None:
            connection.send(
                replace(_attempted(function, connection.recv()), item=None)
            )  # which is known there


def _follow_parent() -> None:
    """End this process when its parent has ended, even during a job."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


def _ending(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


# ------------------------------------------------------------------------------------------------ a cluster


class _RayCrew:
    """Actors of a Ray cluster."""

    def __init__(self, address: str | None, start: Start[Any, Any], gpus: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine
        try:
            ray: Any = import_module("ray")  # by name: type checkers need not read it
        except ImportError as error:
            raise UserError(
                "--cluster needs Ray: pip install 'moditalker[cluster]', or leave it out and use this machine"
            ) from error
        self.ray, self.start = ray, start
        self.calls: dict[Any, Any] = {}  # reference to what an actor will say -> the actor
        own = {"include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"--cluster {address}: no Ray cluster answers there ({error}); give its address, or 'local'"
            ) from error
        ray.put(None)  # what Ray imports late it imports now, and not in the pool's thread
        self.actor = ray.remote(max_restarts=0, num_cpus=1, num_gpus=gpus)(_Actor)

    def hire(self) -> Any:
        actor = self.actor.remote()
        self.calls[actor.begin.remote(self.start)] = actor
        return actor

    def give(self, worker: Any, item: Any) -> None:
        self.calls[worker.do.remote(item)] = worker

    def hear(self, call: Connection, seconds: float | None) -> list[tuple[Any, Any]]:
        heard = []
        wait([call], 0 if self.calls else seconds)
        while call.poll():
            call.recv_bytes()
        for said in self.ray.wait(list(self.calls), num_returns=1, timeout=POLL)[0] if self.calls else []:
            actor = self.calls.pop(said)
            try:
                heard.append((actor, self.ray.get(said)))
            except self.ray.exceptions.RayActorError as error:
                heard.append((actor, _Dead(str(error).splitlines()[0])))
            except self.ray.exceptions.RayTaskError as error:
                why = str(error).splitlines()[-1]
                rule = "every host needs the same moditalker installed"
                heard.append((actor, _Unfit(f"a worker of the cluster cannot start ({why}); {rule}")))
        return heard

    def end(self, worker: Any) -> None:
        self.ray.kill(worker)

    def dismiss(self) -> None:
        self.ray.shutdown()


class _Actor:
    """A worker of a cluster."""

    def __init__(self) -> None:
        self.function: Callable[[Any], Any] | None = None

    def begin(self, start: Start[Any, Any]) -> _Ready | _Unfit:
        self.function, message = _started(start)
        return message

    def do(self, item: Any) -> Outcome[Any, Any]:
        assert self.function is not None
        return _attempted(self.function, item)
