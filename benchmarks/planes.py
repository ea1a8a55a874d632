"""The paper's Fig. 3: the planes of a clip, their first three principal components as colours.

    python benchmarks/planes.py --data clips --weights mtov.safetensors --out planes.png

Rows: planes of the identity, of the landmark frames, of the pose frames, from diffusion, of the true clip;
columns: hw, ws, hs, each with components of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from moditalker import config as configuration
from moditalker.data.parts import find_data
from moditalker.training.build import build
from moditalker.training.tasks.mtov import MToVTask
from moditalker.weights.files import load_weights

SCALE, GAP = 12, 6  # pixels of a cell, and between planes


def coloured(planes: list[torch.Tensor]) -> list[np.ndarray]:
    """Planes (C, rows, columns) of one kind -> pictures (rows, columns, 3) by common components."""
    cells = torch.cat([plane.flatten(1).T for plane in planes])
    cells = cells - cells.mean(0)
    _, _, directions = torch.linalg.svd(cells, full_matrices=False)
    parts = (cells @ directions[:3].T).split([plane[0].numel() for plane in planes])
    low, high = torch.quantile(torch.cat(list(parts)), torch.tensor([0.01, 0.99]), dim=0)
    return [
        ((part - low) / (high - low)).clamp(0, 1).unflatten(0, plane.shape[1:]).numpy()
        for part, plane in zip(parts, planes, strict=True)
    ]


@torch.no_grad()
def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    config = configuration.from_dict(load_weights(arguments.weights)[1]["config"])
    data = find_data(arguments.data, arguments.split)
    task, _ = build("mtov", config, data, arguments.out.parent, start_from=arguments.weights)
    assert isinstance(task, MToVTask)
    task.model.eval()
    batch = next(iter(task.held_out.values()))
    conditions, shape = task.conditions(batch), task.model.unet.shape
    made = task.sampled(conditions)
    true = task.model.normalise(task.model.autoencoder.encode(batch.video, batch.identity))
    kinds = [conditions.identity, conditions.landmark, conditions.pose, made, true]
    columns = []
    for number in range(3):
        pictures = coloured([shape.split(planes)[number][0] for planes in kinds])
        tall = [np.kron(picture, np.ones((SCALE, SCALE, 1))) for picture in pictures]
        framed = [np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=1) for p in tall]
        columns.append(np.concatenate(framed))
    height = max(len(column) for column in columns)
    columns = [np.pad(c, ((0, height - len(c)), (0, 0), (0, 0)), constant_values=1) for c in columns]
    Image.fromarray((255 * np.concatenate(columns, axis=1)).astype(np.uint8)).save(arguments.out)


if __name__ == "__main__":
    main()
