"""Splits a dataset's samples into those for training and those for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short

from moditalker.data.shards import Sample, open_dataset
from moditalker.data.split import Split
from moditalker.errors import UserError

JUDGED = 32  # speakers, at most, whose clips validate: they are held in memory


@dataclass(frozen=True)
class Data:
    """The samples to train on and those to validate on; entries of the split that name no video of them."""

    train: list[Sample]
    validation: list[Sample]
    unmatched: tuple[str, ...] = ()

    def digest(self) -> str:
        """SHA-256 of all names, and of the checksums that their contents had when they were written."""
        parts = {"train": self.train, "val": self.validation}
        listed = [
            f"{part} {sample.name} {sample.sha256}" for part, group in parts.items() for sample in group
        ]
        return hashlib.sha256("\n".join(listed).encode("utf-8", "surrogateescape")).hexdigest()


def parse_speakers(text: str) -> frozenset[str]:
    """Speakers' names, separated by commas."""
    return frozenset(name.strip() for name in text.split(",")) - {""}


def find_data(folder: Path, split: Path | None = None, held_out: frozenset[str] = frozenset()) -> Data:
    """Which samples of a dataset train and which validate.

    Args:
        split: as for `prepare`, whose own split it replaces; of its parts "train" and "val" are used.
            Without a "val" anywhere, one video in ten of those for training, chosen by its name, validates.
        held_out: speakers whose samples validate wherever they are listed.

    Raises:
        UserError: no dataset, or a split that cannot be read; one of the parts is empty; no such speaker.
    """
    samples = open_dataset(folder)
    speakers = {sample.speaker for sample in samples}
    if strangers := held_out - speakers:
        raise UserError(
            f"{folder}: there is no speaker {', '.join(sorted(strangers))} to hold out; "
            f"there are {short(sorted(speakers))}"
        )
    listed = Split(split) if split is not None else None
    parts = [listed.part(sample.video) if listed else sample.split or "train" for sample in samples]
    unmatched: list[str] = []
    if listed is not None:
        listed.check(sample.video for sample in samples)
        unmatched = listed.unmatched(sample.video for sample in samples)
    drawn = "val" not in (listed.parts if listed else parts)
    chosen: dict[str, list[Sample]] = {"train": [], "val": []}
    for sample, part in zip(samples, parts, strict=True):
        if part == "train" and (sample.speaker in held_out or (drawn and chance(sample.video) < 0.1)):
            part = "val"
        if part in chosen:
            chosen[part].append(sample)
    if not chosen["train"] or not chosen["val"]:
        raise UserError(
            f"{folder}: {len(chosen['train'])} samples to train on and {len(chosen['val'])} to validate on; "
            "both are needed: prepare more videos, or give another --split"
        )
    judges = judged(sample.speaker for sample in chosen["val"])
    validation = [sample for sample in chosen["val"] if sample.speaker in judges]
    return Data(chosen["train"], validation, tuple(unmatched))


def chance(name: str) -> float:
    """A pseudorandom number in [0, 1), always the same for a name."""
    content = name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "big") / 2**32


def judged(speakers: Iterable[str]) -> set[str]:
    """At most `JUDGED` of the validation speakers, the same in each run."""
    return set(sorted(set(speakers), key=lambda speaker: (chance(speaker), speaker))[:JUDGED])
