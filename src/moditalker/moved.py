"""Modules under the names that they had in version 0.1: they still import, and warn, for one release."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Each with the modules that its names are in now.
MOVED = {
    "bench": ("evaluate.speed",),
    "benchmark": ("evaluate.benchmark",),
    "checkpoint": ("weights.files", "jobs.files"),
    "competitors": ("evaluate.competitors",),
    "convert": ("talker.convert",),
    "landmarks": ("geometry.points", "geometry.align", "geometry.pose", "geometry.raster"),
    "layers": ("diffusion.layers",),
    "looks": ("geometry.looks",),
    "machine": ("jobs.machine",),
    "pipeline": ("talker.talker", "talker.steps"),
    "prepare": ("data.dataset", "data.worker", "data.videos"),
    "rendering": (
        "talker.steps",
        "talker.targets",
        "talker.layers",
        "talker.video",
        "talker.stream",
        "talker.retarget",
    ),
    "shards": ("data.shards", "data.split"),
    "streams": ("jobs.streams",),
    "tts": ("media.tts",),
    "verify": ("provenance.verify",),
    "workers": ("jobs.pool",),
}


class Finder(MetaPathFinder, Loader):
    """Finds `moditalker.NAME` for each name in MOVED."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, leaf = name.rpartition(".")
        return ModuleSpec(name, self) if package == "moditalker" and leaf in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        former = module.__name__
        homes = [f"moditalker.{home}" for home in MOVED[former.rpartition(".")[2]]]
        warnings.warn(f"{former} is now {' and '.join(homes)}", DeprecationWarning, stacklevel=2)

        def find(name: str) -> Any:
            for home in map(import_module, homes):
                if not name.startswith("__") and hasattr(home, name):
                    return getattr(home, name)
            raise AttributeError(f"module {former!r} has no attribute {name!r}")

        module.__dict__["__getattr__"] = find
