"""A face found in one frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moditalker.geometry.points import MESH_TO_68

Array = NDArray[np.float32]
Image = NDArray[np.uint8]  # (H, W, 3) RGB


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one frame.

    points: (478, 3) float32, MediaPipe's mesh and irises: pixels of the frame (the centre of the top left
    pixel is (0, 0)), x right, y down, z in the same scale, smaller = nearer. landmarks: (68, 3), the ones
    the models use. score: of the mesh network, 0.5 to 1; 0 where a short gap was interpolated.
    box: (x0, y0, x1, y1), the points' extent. cut: this is the first face after a cut. detection: the
    detector's score, if it was run.
    """

    points: Array
    score: float
    cut: bool = False
    detection: float = 1.0

    @property
    def landmarks(self) -> Array:
        result: Array = self.points[MESH_TO_68]
        return result

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        (x0, y0), (x1, y1) = self.points[:, :2].min(0).tolist(), self.points[:, :2].max(0).tolist()
        return x0, y0, x1, y1

    @property
    def centre(self) -> Array:
        result: Array = np.asarray(self.box, np.float32).reshape(2, 2).mean(0)
        return result

    @property
    def size(self) -> float:
        """Longer side of the box."""
        x0, y0, x1, y1 = self.box
        return max(x1 - x0, y1 - y0)
