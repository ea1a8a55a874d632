"""Makes features for FID [Heusel et al. 2017] and FVD [Unterthiner et al. 2019] by the user's networks.

The distances are `frechet.frechet_distance` of these features. They may be called FID and FVD only with the
networks that define them: Inception v3 with the weights of 2015-12-05 and its last pooling
(2048), and I3D trained on Kinetics-400 with its logits (400).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray

from moditalker.metrics.onnx_network import OnnxNetwork
from moditalker.weights.named import find_given

INCEPTION, I3D = (3, 299, 299), (3, 16, 224, 224)  # shapes of their inputs, in [-1, 1]
CLIP = I3D[1]  # frames of one input


@cache
def _network(name: str) -> OnnxNetwork:
    return OnnxNetwork(find_given(name))


def inception_features(pictures: ArrayLike) -> NDArray[np.float32]:
    """Pictures (S, H, W, 3) in grey levels -> (S, 2048). Raises UserError if the weights are missing."""
    return _network("inception")(_resized(pictures, INCEPTION[1]))


def i3d_features(pictures: ArrayLike) -> NDArray[np.float32]:
    """Video (S, H, W, 3) in grey levels -> (S // 16, 400), one row per 16 frames. Raises UserError."""
    x = _resized(pictures, I3D[2])
    pieces = [x[i : i + CLIP].transpose(1, 0, 2, 3) for i in range(0, len(x) - CLIP + 1, CLIP)]
    return _network("i3d")(np.stack(pieces)) if pieces else np.zeros((0, 400), np.float32)


def _resized(pictures: ArrayLike, side: int) -> NDArray[np.float32]:
    """(S, H, W, 3) in grey levels -> (S, 3, side, side) in [-1, 1], bilinear."""
    x = torch.from_numpy(np.asarray(pictures, np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    return np.asarray(F.interpolate(x, (side, side), mode="bilinear", align_corners=False))
