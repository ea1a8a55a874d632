"""Tasks for worker processes that need no network and do what they are told; importing them costs nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from moditalker.errors import UserError
from moditalker.jobs.pool import report


def preparing(word: str) -> Callable[[str], str | int]:
    """The task, which answers `word` unless it is told something else."""
    if word == "fail":
        raise UserError("there are no such weights")

    def task(order: str) -> str | int:
        report("began", 1, 2)
        if order == "mistake":
            raise UserError("a mistake")
        if order == "bug":
            raise ValueError("a bug")
        if order == "crash":
            os.abort()
        if order == "sleep":
            time.sleep(600)
        return os.getpid() if order == "pid" else word

    return task


def glancing() -> Callable[[Any], Any]:
    """In place of `serve.tasks.face_worker`: each file shows one face, or lasts a second."""

    def glance(order: Any) -> Any:
        from moditalker.serve.orders import FoundFaces

        if order.out is None:
            return 1.0
        order.out.write_bytes(order.file.path.read_bytes())
        return FoundFaces(100, 100, [(10.0, 10.0, 50.0, 60.0)], 0.0, True)

    return glance


def pretending(seconds: float = 0.0) -> Callable[[Any], None]:
    """In place of `serve.tasks.video_worker`: the video is the face file, twice, unless that says otherwise.

    seconds: that a job takes.
    """

    def make(order: Any) -> None:
        order.folder.mkdir(parents=True, exist_ok=True)
        content = order.face.path.read_bytes()
        (order.folder / "talking.mp4").write_bytes(content)
        report("video", 1, 2)
        for _ in range(10):
            time.sleep(600 if content.startswith(b"sleep") else seconds / 10)
        if content.startswith(b"mistake"):
            raise UserError(f"{order.face.name}: a mistake")
        if content.startswith(b"bug"):
            raise ValueError("a bug")
        if content.startswith(b"crash"):
            os.abort()
        with (order.folder / "talking.mp4").open("ab") as file:
            file.write(content)
        (order.folder / "report.json").write_text(json.dumps({"frames": 1, "pid": os.getpid()}))

    return make
