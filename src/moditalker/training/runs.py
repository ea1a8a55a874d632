"""A run folder's record of what its run was begun with: it is gone on with as it was begun."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moditalker import config as configuration
from moditalker.config import Config
from moditalker.errors import UserError
from moditalker.training.loop import CHECKPOINT, TRAINING
from moditalker.training.tasks import Data

CONFIG, DATA = "config.yaml", "data.json"
FREE = {"steps", "validate_every", "save_minutes"}  # what of a training may change on the way


def check_folder(run: Path, resume: bool) -> None:
    """Raise UserError where a folder holds a run that is not to be gone on with, or none that is."""
    if (run / CHECKPOINT).exists() and not resume:
        raise UserError(f"{run}: holds a run; go on with it by --resume, or choose another folder")
    if resume and not any((run / name).exists() for name in (CHECKPOINT, CONFIG)):
        raise UserError(f"{run}: holds no run to go on with; give its folder, or leave out --resume")


def record(run: Path, task: str, config: Config, data: Data) -> None:
    """Write what a run is made with: config.yaml and data.json.

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
                f"{run}: was begun with {', '.join(changed)}; go on with the same, or choose another folder"
            )
    (run / CONFIG).write_text(configuration.dump(config), encoding="utf-8")
    (run / DATA).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def _fixed(config: Config) -> Iterator[tuple[str, Any]]:
    """All settings that a run keeps from its begin to its end, by their keys."""
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
