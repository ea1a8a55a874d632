"""The training loop of all tasks. A task brings a model, batches, a loss and a validation.

A step is a pure function of (weights, optimiser, seed, step): a run that is killed and resumed from its last
checkpoint ends with the same weights as one that was never stopped (same threads, CPU). A step's batch is
made of ``accumulate`` parts, each with its own seeds; processes share the parts, so two give the result of
one.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from moditalker.config import Config, TrainingConfig
from moditalker.errors import UserError
from moditalker.jobs.machine import one_thread
from moditalker.training.processes import Processes
from moditalker.training.run import Run, curves, stop_signal


@dataclass(frozen=True)
class Drawn:
    """A part of a step: its batch, on the CPU, and the seeds of its noise and dropout."""

    noise: int
    dropout: int
    batch: Any


class Task(Protocol):
    """The interface of a task."""

    @property
    def name(self) -> str:
        """The name in messages."""

    @property
    def config(self) -> Config:
        """The configuration that is saved with the weights."""

    @property
    def model(self) -> nn.Module:
        """Everything that is trained and saved."""

    def batch(self, rng: np.random.Generator) -> Any:
        """Draw a batch, on the CPU; the same ``rng`` state gives the same one, in any thread."""

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss, a mean over the batch, and figures to log. The generator is the CPU's."""

    def validate(self) -> dict[str, float]:
        """Measure ``model`` on held-out data (the loop puts the averaged weights in first)."""

    def score(self, figures: dict[str, float]) -> float:
        """Turn the figures of a validation into one number; more is better."""

    def preview(self) -> NDArray[np.uint8] | None:
        """Draw the model's output for held-out data, (H, W, 3), if it can be seen."""


def learning_rate(config: TrainingConfig, step: int, done: float = 0.0) -> float:
    """Linear warm-up, then constant or a cosine to 2 % of the peak; done: least share of the run."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "constant":
        return config.learning_rate * warm
    progress = min(1.0, max(done, step / max(1, config.steps)))
    return config.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def to_device(batch: Any, device: torch.device) -> Any:
    """Move a tensor, or a dataclass of tensors and Nones, to a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    there = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: value.to(device) for name, value in there.items() if value is not None})


def fit(
    task: Task,
    config: TrainingConfig,
    run: Path,
    log: Callable[[str], None] = print,
    processes: Processes | None = None,
    seconds: float = math.inf,
) -> dict[str, float] | None:
    """Train until ``config.steps``; resume from ``run/last.pt`` if there is one.

    ``seconds`` may end training, and its schedule, earlier (one process only).

    The run folder gets training.json, environment.json, log.jsonl (a line a step), last.pt and, with a
    preview, preview.png; TensorBoard's events too if it is installed. SIGTERM or Ctrl-C saves the run and
    ends it.

    Returns:
        The figures of the last validation, or with ``keep: best`` of the best one, with the averaged
        weights; ``task.model`` holds these weights. None if a signal ended the run before its end.
    Raises:
        UserError: the checkpoint is damaged or of another part or size, or one cannot be written.
    """
    processes = processes or Processes()
    if config.accumulate % processes.count:
        raise UserError(
            f"accumulate = {config.accumulate} parts a batch for {processes.count} processes: "
            "a multiple of their number is needed"
        )
    task.model.to(processes.device)
    state = Run(run, task.name, task.model, config, processes)
    if state.resume():
        log(f"{task.name}: resumed at step {state.step}")
    state.begin()
    task.model.train()
    pace = saved = Pace(state.step, config.steps, seconds)
    parts = range(processes.rank, config.accumulate, processes.count)
    wanted = ((step, part) for step in range(state.step, config.steps) for part in parts)
    with (
        stop_signal() as stopped,
        curves(run, state.step, processes.main) as curve,
        made_ahead(partial(draw, task, config.seed), wanted, processes.workers) as made,
    ):
        last, ended = state.step >= config.steps, False
        figures = validated(task, state) if last else {}
        while not last and not (ended := processes.any(stopped())):
            rate = learning_rate(config, state.step, pace.share)
            record = descend(task, state, islice(made, len(parts)), rate)
            state.stepped()
            last = state.step == config.steps or pace.share >= 1
            if state.step % config.validate_every == 0 or last:
                figures = validated(task, state)
                record |= figures
                if config.keep == "best":
                    state.judged(task.score(figures), figures)
                log(f"{task.name} {pace.line(state.step, record)}")
            curve(state.step, record)
            if last or saved.seconds > 60 * config.save_minutes:
                state.save()
                saved = Pace()
        if ended:
            state.save()
            log(f"{task.name}: stopped at step {state.step}, saved")
    if (best := state.finish()) is not None:
        figures = best
        log(f"{task.name}: the weights of step {state.best['step']}, the best by validation")
    return None if ended else figures


def draw(task: Task, seed: int, step: int, part: int) -> Drawn:
    """Draw a part of a step: the same for the same seed, step and part."""
    rng = np.random.default_rng((seed, step, part))
    noise, dropout = int(rng.integers(2**62)), int(rng.integers(2**62))
    return Drawn(noise, dropout, task.batch(rng))


def descend(task: Task, state: Run, parts: Iterable[Drawn], rate: float) -> dict[str, float]:
    """Make one step of the optimiser; return the mean figures of this process's parts."""
    config, processes = state.config, state.processes
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    logs: list[dict[str, float]] = []
    for part in parts:
        torch.manual_seed(part.dropout)
        with processes.autocast():
            batch = to_device(part.batch, processes.device)
            loss, terms = task.loss(batch, torch.Generator().manual_seed(part.noise))
        (loss * processes.scale / config.accumulate).backward()
        logs.append({"loss": loss.item(), **terms})
    processes.sum_gradients(state.parameters)
    norm = nn.utils.clip_grad_norm_(state.parameters, config.clip_norm)
    if norm.isfinite():
        state.optimizer.step()
    elif not processes.lower_scale():
        raise RuntimeError(f"{task.name}: the gradients of step {state.step} are not finite")
    return {"norm": norm.item(), **{k: float(np.mean([one[k] for one in logs])) for k in logs[0]}}


def validated(task: Task, state: Run) -> dict[str, float]:
    """Return the figures of the averaged weights; save a picture in the run's folder."""
    with state.averaged():
        figures = task.validate()
        if state.processes.main and (picture := task.preview()) is not None:
            Image.fromarray(picture).save(state.folder / "preview.png")
    return figures


class Pace:
    """Measures the progress of a training by its steps, or by its seconds if they end first."""

    def __init__(self, first: int = 0, steps: int = 0, limit: float = math.inf) -> None:
        self.first, self.steps, self.limit, self.begun = first, steps, limit, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.begun

    @property
    def share(self) -> float:
        """Share of the time limit that has passed."""
        return self.seconds / self.limit

    def line(self, step: int, record: dict[str, float]) -> str:
        """Write a line with a step's figures and the time left."""
        pace = self.seconds / (step - self.first)
        left = max(0, min(pace * (self.steps - step), self.limit - self.seconds)) / 60
        goal = f"/{self.steps}" if self.limit == math.inf else ""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in record.items())
        return f"{step}{goal}  {shown}  {pace:.2f} s/step, {left:.0f} min left"


@contextmanager
def made_ahead(
    draw: Callable[[int, int], Drawn], wanted: Iterator[tuple[int, int]], workers: int
) -> Iterator[Iterator[Drawn]]:
    """Yield ``draw`` of the wanted (step, part) pairs, in order. Threads make the next ones ahead, so that an
    accelerator need not wait. Without workers each is made when it is needed.
    """
    if not workers:
        yield (draw(*pair) for pair in wanted)
        return
    with ThreadPoolExecutor(workers, "batches", initializer=one_thread) as pool:
        waiting = deque(pool.submit(draw, *pair) for pair in islice(wanted, workers))

        def ahead() -> Iterator[Drawn]:
            while waiting:
                waiting.extend(pool.submit(draw, *pair) for pair in islice(wanted, 1))
                yield waiting.popleft().result()

        try:
            yield ahead()
        finally:
            pool.shutdown(cancel_futures=True)
