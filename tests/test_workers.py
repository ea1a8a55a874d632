"""Jobs in worker processes: failures are outcomes, killed workers are replaced, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import psutil
import pytest
from standin_task import preparing

from moditalker.errors import UserError
from moditalker.jobs.pool import ATTEMPTS, Outcome, Pool, work

Job = tuple[str, int]


def begin(log: Path | None = None) -> Callable[[Job], tuple[int, int]]:
    """A worker whose jobs name what shall happen; it notes that it has started."""
    if log is not None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
    return do


def do(job: Job) -> tuple[int, int]:
    kind, number = job
    if kind == "mistake":
        raise UserError(f"{number} is wrong")
    if kind == "bug":
        return number, [][number]
    if kind == "sleeps":
        time.sleep(600)
    if kind == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind.startswith("dies once ") and not Path(kind.removeprefix("dies once ")).exists():
        Path(kind.removeprefix("dies once ")).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number, os.getpid()


def refuse() -> Callable[[Job], int]:
    raise UserError("there are no weights")


def collapse() -> Callable[[Job], int]:
    os._exit(3)


def check_all_ways(outcomes: list[Outcome], jobs: list[Job], log: Path) -> None:
    """What `test_all_ways_that_jobs_end` wants, on whatever kind of crew."""
    assert sorted(outcome.item for outcome in outcomes) == sorted(jobs)
    by_item = {outcome.item: outcome for outcome in outcomes}
    for job in jobs:
        outcome, (kind, number) = by_item[job], job
        if kind == "fine" or kind.startswith("dies once"):
            assert outcome.error == ""
            assert outcome.result[0] == number * number
        elif kind == "mistake":
            assert (outcome.error, outcome.details) == (f"{number} is wrong", "")
        elif kind == "bug":
            assert "IndexError" in outcome.error
            assert "Traceback" in outcome.details
        else:
            assert f"{ATTEMPTS} workers died" in outcome.error
    # Each worker started once and did many jobs: two at first, and one for each that was killed.
    assert len(log.read_text().split()) <= 2 + ATTEMPTS + 1
    assert len({outcome.result[1] for outcome in outcomes if outcome.result}) < len(jobs) / 2


def all_ways(folder: Path) -> list[Job]:
    return [
        *[("fine", i) for i in range(12)],
        ("mistake", 5),
        ("bug", 6),
        ("dies", 7),
        (f"dies once {folder / 'died'}", 8),
        *[("fine", i) for i in range(12, 20)],
    ]


def test_all_ways_that_jobs_end(tmp_path):
    jobs, log = all_ways(tmp_path), tmp_path / "log"
    outcomes = list(work(partial(begin, log), jobs, workers=2))
    check_all_ways(outcomes, jobs, log)
    assert "killed by signal 9" in next(o.error for o in outcomes if o.item[0] == "dies")
    assert not [p for p in psutil.Process().children() if str(p.pid) in log.read_text().split()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # Ray's own
def test_all_ways_that_jobs_end_on_a_cluster(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    with pytest.raises(UserError, match=r"No module named 'test_workers'.* needs the same moditalker"):
        list(work(begin, [("fine", 1)], cluster="local"))
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    jobs, log = all_ways(tmp_path), tmp_path / "log"
    check_all_ways(list(work(partial(begin, log), jobs, workers=2, cluster="local")), jobs, log)


def test_a_reader_that_stops_early_ends_the_workers(tmp_path):
    log = tmp_path / "log"
    outcomes = work(partial(begin, log), [("fine", i) for i in range(50)], workers=2)
    next(outcomes)
    outcomes.close()
    workers = {int(line) for line in log.read_text().split()}
    assert workers
    assert not workers & {process.pid for process in psutil.process_iter()}


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    log = tmp_path / "log"
    code = f"""
from functools import partial
from pathlib import Path
from moditalker.jobs.pool import work
from test_workers import begin
list(work(partial(begin, Path({str(log)!r})), [("sleeps", 1)]))
"""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    until = time.monotonic() + 60
    while not (log.exists() and log.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    worker = psutil.Process(int(log.read_text()))
    parent.kill()
    parent.wait()
    worker.wait(60)


def test_workers_that_cannot_start_end_it_all():
    with pytest.raises(UserError, match="there are no weights"):
        list(work(refuse, [("fine", 1)]))
    with pytest.raises(UserError, match=r"die while they start \(exit code 3\)"):
        list(work(collapse, [("fine", 1)]))


def test_what_cannot_be_asked_for():
    with pytest.raises(UserError, match="at least 1"):
        list(work(begin, [("fine", 1)], workers=0))
    assert list(work(begin, [])) == []


def test_without_ray_a_cluster_gets_its_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'moditalker\[cluster\]'"):
        list(work(begin, [("fine", 1)], cluster="auto"))


def threads() -> Callable[[Job], list[str]]:
    return tell_threads


def tell_threads(job: Job) -> list[str]:
    return [os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")]


def test_workers_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the user's own setting, which is for one process, would give each of them all."""
    monkeypatch.setattr("moditalker.jobs.pool.os.cpu_count", lambda: 4)
    for given, told in (("4", "2"), ("1", "1"), ("", "2"), ("many", "2")):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        outcomes = list(work(threads, [("", 1), ("", 2)], 2))
        assert [outcome.result for outcome in outcomes] == [[told, "1"]] * 2


# ------------------------------------------------------------------------------------------ an open pool


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(partial(preparing, "done"), lasting=True)
    pool.ready()
    yield pool
    pool.close()


def outcome_of(pool: Pool, order: str, **how: object) -> Outcome:
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    pool.submit(order, outcomes.put, **how)
    return outcomes.get(timeout=60)


def test_an_open_pool_answers_reports_and_lives_on(pool):
    told = []
    assert outcome_of(pool, "anything", report=lambda *step: told.append(step)).result == "done"
    assert told == [("began", 1, 2)]
    first = outcome_of(pool, "pid").result
    assert outcome_of(pool, "mistake").error == "a mistake"
    assert "ValueError" in outcome_of(pool, "bug").details
    assert outcome_of(pool, "pid").result == first != os.getpid()


def test_a_job_that_takes_too_long_costs_its_worker_alone(pool):
    before = outcome_of(pool, "pid").result
    assert "took more than 0.2 s" in outcome_of(pool, "sleep", seconds=0.2).error
    assert outcome_of(pool, "pid").result != before
    assert not psutil.pid_exists(before)


def test_a_job_that_crashes_is_given_up(pool):
    crashed = outcome_of(pool, "crash")
    assert crashed.deaths == ATTEMPTS
    assert not crashed.stopped
    assert outcome_of(pool, "crash", again=False).deaths == 1


def test_jobs_are_stopped_while_they_wait_and_while_they_run(pool):
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    begun = threading.Event()
    running = pool.submit("sleep", outcomes.put, report=lambda *_: begun.set())
    waiting = pool.submit("anything", outcomes.put)
    last = pool.submit("pid", outcomes.put)
    begun.wait(60)
    pool.stop(waiting)
    assert outcomes.get(timeout=60).stopped
    pool.stop(running)
    stopped = outcomes.get(timeout=60)
    assert (stopped.item, stopped.stopped, stopped.result) == ("sleep", True, None)
    assert outcomes.get(timeout=60).item == last.item == "pid"


def test_a_job_survives_that_somebody_kills_its_worker(pool):
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    begun: SimpleQueue[float] = SimpleQueue()
    own = outcome_of(pool, "pid").result
    others = {child.pid for child in psutil.Process().children()} - {own}  # of other tests
    task = pool.submit("sleep", outcomes.put, report=lambda *_: begun.put(time.monotonic()))
    for _ in range(3):
        begun.get(timeout=60)
        children = [child for child in psutil.Process().children() if child.pid not in others]
        (worker,) = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        worker.kill()
    begun.get(timeout=60)
    pool.stop(task)
    assert outcomes.get(timeout=60).stopped
    assert pool.deaths >= 3


def test_a_pool_whose_workers_cannot_start_says_why():
    pool = Pool(partial(preparing, "fail"), lasting=True)
    with pytest.raises(UserError, match="no such weights"):
        pool.ready()
    assert not pool.up
    assert outcome_of(pool, "anything").error == "there are no such weights"
    pool.close()


def test_what_is_left_when_a_pool_closes_is_stopped():
    pool = Pool(partial(preparing, "done"), lasting=True)
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    for _ in range(3):
        pool.submit("sleep", outcomes.put)
    pool.close()
    assert [outcomes.get(timeout=1).stopped for _ in range(3)] == [True] * 3
