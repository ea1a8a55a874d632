"""A task for worker processes that needs no network and does what it is told; importing it costs nothing."""

from __future__ import annotations

import os
import time

from moditalker.errors import UserError
from moditalker.serve.worker import Report, Task


def preparing(word: str) -> Task:
    """The task, which answers `word` unless it is told something else."""
    if word == "fail":
        raise UserError("there are no such weights")

    def task(report: Report, order: str) -> str | int:
        report("began", 1, 2)
        if order == "mistake":
            raise UserError("a mistake")
        if order == "bug":
            raise ValueError("a bug")
        if order == "crash":
            os._exit(1)
        if order == "sleep":
            time.sleep(600)
        return os.getpid() if order == "pid" else word

    return task
