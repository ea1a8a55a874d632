"""Task ``cover``: learns what is in front of a face from free faces with things drawn over them.

Faces are found once and kept in a file. Each example is one of them, varied, and in about half of the
examples something is put in front of it: a hand, a microphone, a mask, a cup, a caption, a sheet, a piece of
another picture. Faces also get beards, shadows, painted lips, glints, odd colours, noise and compression,
which do not count as covered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from covers.examples import examples
from covers.people import People
from moditalker.config import Config
from moditalker.features.face.cover import Cover

OUTSIDE = 0.25  # weight of pixels outside the face, where "in front" means little
VIEWS = 2  # of each face that is varied, by different cameras: drawing costs more than looking
FIXED = 9  # seed of the validation's examples


@dataclass(frozen=True)
class CoverBatch:
    """pictures, outlines: (B, 3, SIDE, SIDE) as of `features.cover.inputs`; covered: (B, SIDE, SIDE) in
    [0, 1].
    """

    pictures: Tensor
    outlines: Tensor
    covered: Tensor


class CoverTask:
    """The network that finds what is in front of a face, for `training.loop.fit`."""

    name = "cover"

    def __init__(self, config: Config, train: People, validation: People, batch: int) -> None:
        self.config, self.train, self.size = config, train, batch
        _, number, counts = np.unique(train.names, return_inverse=True, return_counts=True)
        # A person of many frames is not worth as many people.
        weight = counts[number] ** -0.7
        self.probability = weight / weight.sum()
        self.model = Cover()
        rng = np.random.default_rng(FIXED)
        chosen = rng.choice(len(validation.names), size=512)
        self.fixed = [examples(validation, int(i), rng)[0] for i in chosen]

    def batch(self, rng: np.random.Generator) -> CoverBatch:
        """Random faces, varied, about half of them with something in front."""
        chosen = rng.choice(len(self.train.names), size=self.size // VIEWS, p=self.probability)
        return collated([view for i in chosen for view in examples(self.train, int(i), rng, VIEWS)])

    def loss(self, batch: CoverBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Binary cross-entropy, mostly of the pixels inside the face's outline."""
        made = self.model(batch.pictures, batch.outlines)
        weight = OUTSIDE + (1 - OUTSIDE) * batch.outlines[:, 0]
        error = F.binary_cross_entropy_with_logits(made, batch.covered, reduction="none")
        loss = (error * weight).sum() / weight.sum()
        return loss, {"entropy": loss.item()}

    def validate(self) -> dict[str, float]:
        """On people outside of training: overlap (IoU) of covered pixels in faces; false alarms, the share of
        free faces of whose lips' surroundings more than a fiftieth is predicted as covered; misses, the
        share of faces with more than a twentieth really covered that are not found.
        """
        common = both = 0.0
        alarms, misses = list[bool](), list[bool]()
        for start in range(0, len(self.fixed), 64):
            batch = collated(self.fixed[start : start + 64])
            made = self.model(batch.pictures, batch.outlines).sigmoid() > 0.5
            real = batch.covered > 0.5
            inside = batch.outlines[:, 0] > 0.5
            common += float((made & real & inside).sum())
            both += float(((made | real) & inside).sum())
            near = F.max_pool2d(batch.outlines[:, 1:2], 9, 1, 4)[:, 0] > 0.5
            called, true = (((part & near).sum((1, 2)) / near.sum((1, 2))).tolist() for part in (made, real))
            for mine, its in zip(called, true, strict=True):
                if its == 0:
                    alarms.append(mine > 0.02)
                elif its > 0.05:
                    misses.append(mine <= 0.02)
        return {
            "iou": common / max(1.0, both),
            "false_alarms": float(np.mean(alarms or [False])),
            "missed": float(np.mean(misses or [False])),
        }

    def score(self, figures: dict[str, float]) -> float:
        return figures["iou"] - figures["false_alarms"]

    def preview(self) -> NDArray[np.uint8]:
        """Rows of pictures, of predicted and of real covered pixels, eight in a row."""
        batch = collated(self.fixed[:32])
        made = self.model(batch.pictures, batch.outlines).sigmoid()
        rows = []
        for start in range(0, 32, 8):
            part = slice(start, start + 8)
            rows.append(torch.cat(list(batch.pictures[part]), dim=-1))
            for plane in (made, batch.covered):
                rows.append(torch.cat(list(plane[part]), dim=-1).expand(3, -1, -1))
        sheet = torch.cat(rows, dim=-2)
        return (sheet * 255).clamp(0, 255).byte().permute(1, 2, 0).numpy()


def collated(items: list[tuple[Tensor, Tensor, Tensor]]) -> CoverBatch:
    return CoverBatch(*(torch.stack(part) for part in zip(*items, strict=True)))
