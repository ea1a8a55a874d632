"""Processes that train together, by Hugging Face Accelerate if asked for; else one, on the CPU."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from moditalker.errors import UserError

MOST_WORKERS = 8
FP16_SCALE = 2.0**14  # scale of the loss, so that small gradients do not vanish


class Processes:
    """One process on the CPU in full precision, without Accelerate."""

    rank, count, precision, scale = 0, 1, "no", 1.0
    workers = 0  # threads that make batches ahead; on a CPU, training itself uses all threads
    device = torch.device("cpu")

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for a forward pass."""
        return nullcontext()

    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in each of them, and divide them by ``scale``."""

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process; all processes must call this."""
        return flag

    def wait(self) -> None:
        """Wait until all processes have called this."""

    def lower_scale(self) -> bool:
        """Halve ``scale`` after gradients that are not finite; False if it cannot be their cause."""
        if self.scale <= 1:
            return False
        self.scale /= 2
        return True


class Accelerated(Processes):
    """As many processes as `accelerate launch` or `torchrun` started, on the devices that it gives them.

    Args:
        precision: "no", "bf16" or "fp16".
    Raises:
        UserError: Accelerate is not installed, or the device cannot do this precision.
    """

    def __init__(self, precision: str = "no") -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise UserError(
                "training on several processes, on a GPU or in mixed precision needs Accelerate: "
                "pip install 'moditalker[train]'"
            ) from error
        try:
            self.accelerator = Accelerator(mixed_precision=precision)
        except ValueError as error:
            raise UserError(f"precision {precision!r} is not possible on this device ({error})") from error
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.device, self.precision = self.accelerator.device, precision
        self.scale = FP16_SCALE if precision == "fp16" else 1.0
        if self.device.type != "cpu":
            here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes on this host
            self.workers = max(1, min(MOST_WORKERS, (os.cpu_count() or 1) // here - 1))

    def autocast(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        counts = [float(parameter.grad is not None) for parameter in parameters]  # processes that have one
        if self.count > 1:
            counts = self._sum(torch.tensor(counts, device=self.device)).tolist()
        for parameter, count in zip(parameters, counts, strict=True):
            if not count:
                continue  # as in one process: the optimiser skips it
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self._sum(grad) / self.scale

    def any(self, flag: bool) -> bool:
        return flag if self.count == 1 else bool(self._sum(torch.tensor(float(flag), device=self.device)))

    def _sum(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.count == 1:
            return tensor
        total: torch.Tensor = self.accelerator.reduce(tensor, "sum")
        return total

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()
