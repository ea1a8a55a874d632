"""THE training loop: one story for all tasks. A task brings a model, batches, a loss and a validation.

A step is a pure function of (weights, optimiser, seed, step): a run that is killed and resumed from its last
checkpoint ends with the same weights as one that was never stopped (same threads, CPU).
"""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from moditalker.config import TrainingConfig


class Task(Protocol):
    """What the loop needs to know of a task."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def model(self) -> nn.Module:
        """Everything that is trained and saved."""

    def batch(self, rng: np.random.Generator) -> Any:
        """A random batch."""

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss to descend, and figures to log."""

    def validate(self) -> dict[str, float]:
        """Figures on held-out data, with ``model`` as it is (the loop puts the averaged weights in)."""


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then constant or a cosine to 2 % of the peak."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "constant":
        return config.learning_rate * warm
    progress = min(1.0, step / max(1, config.steps))
    return config.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def fit(
    task: Task, config: TrainingConfig, run: Path, log: Callable[[str], None] = print
) -> dict[str, float]:
    """Train until ``config.steps``; resume from ``run/last.pt`` where there is one.

    Returns:
        The figures of the last validation, with the averaged weights; ``task.model`` holds these weights.
    """
    run.mkdir(parents=True, exist_ok=True)
    (run / "training.json").write_text(json.dumps(asdict(config), indent=2))
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
    )
    average = copy.deepcopy(task.model.state_dict())
    step = 0
    if (run / "last.pt").exists():
        state = torch.load(run / "last.pt", weights_only=True)
        task.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, step = state["average"], state["step"]
        log(f"{task.name}: resumed at step {step}")

    def save() -> None:
        state = {
            "model": task.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average,
            "step": step,
        }
        torch.save(state, run / "last.pt.part")
        (run / "last.pt.part").replace(run / "last.pt")

    def validate() -> dict[str, float]:
        current = copy.deepcopy(task.model.state_dict())
        task.model.load_state_dict(average)
        task.model.eval()
        with torch.no_grad():
            figures = task.validate()
        task.model.train()
        task.model.load_state_dict(current)
        return figures

    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    previous = signal.signal(signal.SIGTERM, stop)
    task.model.train()
    figures: dict[str, float] = {}
    saved = begun = time.monotonic()
    first = step
    try:
        with (run / "log.jsonl").open("a") as curve:
            while step < config.steps and not stopped:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(config, step)
                rng = np.random.default_rng((config.seed, step))
                generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
                torch.manual_seed(int(rng.integers(2**62)))  # dropout
                loss, logs = task.loss(task.batch(rng), generator)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                norm = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
                optimizer.step()
                step += 1
                decay = min(config.ema, (1 + step) / (10 + step))
                with torch.no_grad():
                    for name, value in task.model.state_dict().items():
                        if value.is_floating_point():
                            average[name].lerp_(value, 1 - decay)
                        else:
                            average[name].copy_(value)
                record = {"step": step, "loss": loss.item(), "norm": norm.item(), **logs}
                last = step == config.steps
                if step % config.validate_every == 0 or last:
                    figures = validate()
                    record |= figures
                    pace = (time.monotonic() - begun) / (step - first)
                    left = pace * (config.steps - step) / 60
                    shown = "  ".join(f"{k} {v:.4g}" for k, v in record.items() if k != "step")
                    log(f"{task.name} {step}/{config.steps}  {shown}  {pace:.2f} s/step, {left:.0f} min left")
                curve.write(json.dumps(record) + "\n")
                curve.flush()
                if last or time.monotonic() - saved > 60 * config.save_minutes:
                    save()
                    saved = time.monotonic()
        if stopped:
            save()
            log(f"{task.name}: stopped at step {step}, saved; the same command goes on from there")
    finally:
        signal.signal(signal.SIGTERM, previous)
    task.model.load_state_dict(average)
    task.model.eval()
    return figures
