"""Many jobs by a few worker processes, on this machine or, through Ray (extra ``cluster``), on many.

Each worker prepares once (loads its models) and then does one job after the other. A failed job is an
outcome too. A killed worker is replaced, and its job goes to another one.
"""

from __future__ import annotations

import logging
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
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from moditalker.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
Start: TypeAlias = Callable[[], Callable[[Item], Result]]

ATTEMPTS = 2  # workers that a job may cost before it is given up
STILLBORN = 3  # workers in a row that may die before they are ready
PATIENCE = 10.0  # s that a worker has to leave in good order


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """The outcome of a job: a result, or the sentence of an error.

    details: a traceback if the failure is a bug and no mistake of the user.
    """

    item: Item
    result: Result | None = None
    error: str = ""
    details: str = ""


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
    if items:
        crew = _RayCrew(cluster, start, gpus) if cluster else _LocalCrew(start, min(workers, len(items)))
        try:
            yield from _supervise(crew, items, workers)
        finally:
            crew.dismiss()


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
    """A worker ended without being asked to."""

    how: str


class _Crew(Protocol):
    """Workers on this machine or a cluster; a worker is any hashable value."""

    def hire(self) -> Any:
        """A new worker, whose first message is `_Ready` or `_Unfit`."""

    def give(self, worker: Any, item: Any) -> None:
        """Give a job to an idle worker; its next message is the `Outcome`."""

    def hear(self) -> list[tuple[Any, Any]]:
        """Wait for messages: (worker, message) pairs; `_Dead` is a worker's last."""

    def dismiss(self) -> None:
        """End all workers."""


@dataclass(eq=False)
class _Task:
    """A job, and how many workers died while doing it."""

    item: Any
    deaths: int = field(default=0)


def _supervise(crew: _Crew, items: Sequence[Any], workers: int) -> Iterator[Outcome[Any, Any]]:
    waiting = deque(_Task(item) for item in items)
    idle: list[Any] = []
    busy: dict[Any, _Task | None] = {}  # None: it is starting
    stillborn = 0
    while waiting or any(busy.values()):
        while waiting and idle:
            task, worker = waiting.popleft(), idle.pop()
            busy[worker] = task
            crew.give(worker, task.item)
        starting = sum(task is None for task in busy.values())
        while len(busy) < workers and starting < len(waiting):
            busy[crew.hire()] = None
            starting += 1
        for worker, message in crew.hear():
            done = busy.pop(worker, None)
            if isinstance(message, _Unfit):
                raise UserError(message.error) if not message.details else RuntimeError(message.details)
            if not isinstance(message, _Dead):
                idle.append(worker)
                stillborn = 0
                if isinstance(message, Outcome):
                    yield message
            elif worker in idle:
                idle.remove(worker)
            elif done is None:
                stillborn += 1
                if stillborn > STILLBORN:
                    raise UserError(
                        f"workers die while they start ({message.how}); there may be too little memory: "
                        "use fewer --workers"
                    )
            else:
                done.deaths += 1
                if done.deaths < ATTEMPTS:
                    waiting.append(done)
                else:
                    why = f"{done.deaths} workers died while they did it ({message.how})"
                    yield Outcome(done.item, error=f"{why}; it may need more memory: use fewer --workers")


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

    def hear(self) -> list[tuple[Any, Any]]:
        heard = []
        worker: Any
        for worker in wait(list(self.processes)):
            try:
                heard.append((worker, worker.recv()))
            except (EOFError, OSError):  # also in the middle of a message
                worker.close()
                process = self.processes.pop(worker)
                process.join(PATIENCE)
                heard.append((worker, _Dead(_ending(process.exitcode))))
        return heard

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
    _share(threads)  # before anything that counts threads is imported
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has ended
        function, message = _started(connection.recv())
        connection.send(message)
        while function is not None:
            connection.send(_attempted(function, connection.recv()))


def _share(threads: int) -> None:
    """No more threads than this worker's share of the processors, also where the user's own setting, which is
    for one process, allows more: workers that have more spin against each other. NumPy has one: its matrices
    are small, and on a busy machine its threads wait for each other, spinning, most of the time.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    most = min(threads, int(given)) if given.isdigit() and int(given) > 0 else threads
    os.environ |= {"OMP_NUM_THREADS": str(most), "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": str(most)}


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
        self.actor = ray.remote(max_restarts=0, num_cpus=1, num_gpus=gpus)(_Actor)

    def hire(self) -> Any:
        actor = self.actor.remote()
        self.calls[actor.begin.remote(self.start)] = actor
        return actor

    def give(self, worker: Any, item: Any) -> None:
        self.calls[worker.do.remote(item)] = worker

    def hear(self) -> list[tuple[Any, Any]]:
        heard = []
        for call in self.ray.wait(list(self.calls), num_returns=1)[0]:
            actor = self.calls.pop(call)
            try:
                heard.append((actor, self.ray.get(call)))
            except self.ray.exceptions.RayActorError as error:
                heard.append((actor, _Dead(str(error).splitlines()[0])))
            except self.ray.exceptions.RayTaskError as error:
                why = str(error).splitlines()[-1]
                rule = "every host needs the same moditalker installed"
                heard.append((actor, _Unfit(f"a worker of the cluster cannot start ({why}); {rule}")))
        return heard

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
