"""The folder of a training run: its settings and data, its checkpoint, its log. A run resumes unchanged."""

from __future__ import annotations

import copy
import json
import math
import platform
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moditalker import __version__
from moditalker import config as configuration
from moditalker.config import Config, TrainingConfig
from moditalker.data.parts import Data
from moditalker.errors import UserError
from moditalker.jobs.files import appearing, write_whole
from moditalker.training.processes import Processes

CHECKPOINT, TRAINING = "last.pt", "training.json"  # in a run folder
CONFIG, DATA = "config.yaml", "data.json"
# What torch raises for an incomplete checkpoint, or one of another network.
UNFIT = (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, UnpicklingError)
FREE = {"steps", "validate_every", "save_minutes"}  # settings of a training that may change in a run


def check_folder(run: Path, resume: bool) -> None:
    """Raise UserError if a folder holds a run and `resume` is off, or none and it is on."""
    if (run / CHECKPOINT).exists() and not resume:
        raise UserError(f"{run}: holds a run; resume it with --resume, or choose another folder")
    if resume and not any((run / name).exists() for name in (CHECKPOINT, CONFIG)):
        raise UserError(f"{run}: holds no run to resume; give its folder, or leave out --resume")


def record(run: Path, task: str, config: Config, data: Data) -> None:
    """Write a run's settings and data: config.yaml and data.json.

    Raises:
        UserError: the folder holds a checkpoint of another task, other data or other settings.
    """
    listed = {"sha256": data.digest(), "train": len(data.train), "val": len(data.validation)}
    if (run / CHECKPOINT).exists():
        before = configuration.load(file=run / CONFIG)
        changed = [
            f"{key} = {was} (now {now})"
            for (key, was), (_, now) in zip(_fixed(before), _fixed(config), strict=True)
            if was != now
        ]
        if (was := _read(run / TRAINING).get("task", task)) != task:
            changed.insert(0, f"task = {was} (now {task})")
        if _read(run / DATA).get("sha256") != listed["sha256"]:
            changed.append("other data")
        if changed:
            raise UserError(
                f"{run}: was begun with {', '.join(changed)}; resume with the same, or choose another folder"
            )
    write_whole(run / CONFIG, configuration.dump(config).encode())
    write_whole(run / DATA, (json.dumps(listed, indent=2) + "\n").encode())


def _fixed(config: Config) -> Iterator[tuple[str, Any]]:
    """All settings that may not change during a run, by their keys."""
    for section, values in configuration.to_dict(config).items():
        if not isinstance(values, dict):
            yield section, values
            continue
        for name, value in values.items():
            if not (section.endswith("_training") and name in FREE):
                yield f"{section}.{name}", value


def _read(path: Path) -> dict[str, Any]:
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); begin again in another folder") from error
    return tree


class Run:
    """The state of a training in its folder: weights, their average, the optimiser, the best validation."""

    def __init__(
        self, folder: Path, name: str, model: nn.Module, config: TrainingConfig, processes: Processes
    ) -> None:
        self.folder, self.name, self.model = folder, name, model
        self.config, self.processes = config, processes
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )
        self.average = copy.deepcopy(model.state_dict())
        self.best: dict[str, Any] = {"score": -math.inf, "step": 0, "weights": {}}  # for `keep: best`
        self.step = 0

    def resume(self) -> bool:
        """Take the state of the folder's checkpoint, if there is one.

        Raises:
            UserError: it is damaged, or of another part or size.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            return False
        try:
            state = torch.load(path, weights_only=True, map_location=self.processes.device)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.step, self.best = state["average"], state["step"], state["best"]
        except torch.OutOfMemoryError:
            raise
        except UNFIT as error:
            raise UserError(
                f"{path}: cannot be read, is damaged, or of another part or size "
                f"({type(error).__name__}); begin again in another folder"
            ) from error
        self.optimizer.param_groups[0]["weight_decay"] = self.config.weight_decay
        return True

    def begin(self) -> None:
        """Write the run's settings: training.json, environment.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.processes.main:
            for rest in self.folder.glob(
                f".{CHECKPOINT}.*.part"
            ):  # leftovers of runs that were killed while they saved
                rest.unlink()
            settings = {"task": self.name, **asdict(self.config)}
            write_whole(self.folder / TRAINING, json.dumps(settings, indent=2).encode())
            made = json.dumps(environment(self.processes), indent=2)
            write_whole(self.folder / "environment.json", made.encode())

    def save(self) -> None:
        """Write the checkpoint, by the main process. Raises UserError if it cannot be written."""
        if not self.processes.main:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "best": self.best,
        }
        try:
            with appearing(self.folder / CHECKPOINT) as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{self.folder / CHECKPOINT}: cannot be written, its disk may be full; make room and "
                "start again"
            ) from error

    @torch.no_grad()
    def stepped(self) -> None:
        """Count a step; the average follows the weights."""
        self.step += 1
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the model the averaged weights in the block, for validation; then its own again."""
        current = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self.average)
        self.model.eval()
        with torch.no_grad():
            yield
        self.model.train()
        self.model.load_state_dict(current)

    def judged(self, score: float, figures: dict[str, float]) -> None:
        """Keep the averaged weights if this is the best validation so far."""
        if score > self.best["score"]:
            weights = copy.deepcopy(self.average)
            self.best = {"score": score, "step": self.step, "figures": figures, "weights": weights}

    def finish(self) -> dict[str, float] | None:
        """Give the model its final weights; returns the figures of the best validation, if it is kept."""
        self.model.load_state_dict(self.best["weights"] or self.average)
        self.model.eval()
        return dict(self.best["figures"]) if self.best["weights"] else None


def trained_weights(run: Path) -> dict[str, Tensor]:
    """Return the final weights of a run: the averaged ones, the best with ``keep: best``.

    Raises:
        UserError: it holds no run, or a damaged one.
    """
    try:
        state = torch.load(run / CHECKPOINT, weights_only=True, map_location="cpu")
        weights: dict[str, Tensor] = state["best"]["weights"] or state["average"]
    except UNFIT as error:
        raise UserError(f"{run}: holds no whole checkpoint of a run; train that part first") from error
    return weights


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Yields a function: whether SIGTERM or Ctrl-C came. A second Ctrl-C ends the step at once."""
    came = False

    def stop(number: int, _: object) -> None:
        nonlocal came
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came = True

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def curves(run: Path, step: int, main: bool) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Yields a function that logs a step's figures; lines of steps that will be redone are removed."""
    if not main:
        yield lambda step, record: None
        return
    path = run / "log.jsonl"
    kept = path.read_text().splitlines() if path.exists() else []
    write_whole(path, "".join(line + "\n" for line in kept if _step(line) <= step).encode())
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        board = None
    else:
        board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
    with path.open("a") as file:

        def write(step: int, record: dict[str, float]) -> None:
            file.write(json.dumps({"step": step, **record}) + "\n")
            file.flush()
            if board is not None:
                for name, value in record.items():
                    board.add_scalar(name, value, step)

        try:
            yield write
        finally:
            if board is not None:
                board.close()


def _step(line: str) -> float:
    """The step of a line of log.jsonl; infinite if a kill cut it short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf


def environment(processes: Processes) -> dict[str, Any]:
    """Describe the software and hardware of a run."""
    return {
        "moditalker": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": processes.count,
        "device": str(processes.device),
        "precision": processes.precision,
    }
