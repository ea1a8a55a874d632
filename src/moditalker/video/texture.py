"""The source's own skin and teeth, given back to what is generated [ours].

A small model blurs: moles, stubble, folds. What it misses of the source's frames, when it is asked to make
just these, is nearly the same on all frames of a shot once the motion of the face is taken out, so it is
known for frames whose mouth is another one. Lips are left out, or the source's speech would show through.
Teeth come from one frame of the source whose mouth is open.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moditalker.landmarks import MOUTH
from moditalker.video.warp import affinity, coarse_flow, mouth_interior, warp_by_flow

LIPS = 4.0  # pixels of a crop of 128 around the lips' points, where the source's speech would show through
LIMIT = 0.3  # of what is given back, of a range of 2: more is a hand or a shadow, not skin


def with_teeth(
    made: Tensor, landmarks: Tensor, mouth: Tensor, mouth_landmarks: Tensor, share: float
) -> Tensor:
    """Frames (S, 3, H, W) of landmarks (S, 68, 2) with what an open mouth shows between its lips.

    Args:
        mouth: (1, 3, H, W), a frame of the same person; mouth_landmarks: (1, 68, 2), pixels.
        share: of it, from 0 to 1; the rest stays what was made.
    """
    height, width = made.shape[-2:]
    lips = mouth_landmarks.expand_as(landmarks)
    flow = coarse_flow(landmarks, lips, height, width)
    shown = warp_by_flow(mouth_interior(lips, height, width), flow)
    inside = mouth_interior(landmarks, height, width)
    return torch.lerp(made, warp_by_flow(mouth.expand_as(made), flow), share * inside * shown)


def missed(made: Tensor, real: Tensor, landmarks: Tensor, identity_landmarks: Tensor) -> Tensor:
    """What is missing in frames that should be real ones, as the identity's face would show it.

    Args:
        made, real: (S, 3, H, W) in [-1, 1].
        landmarks: (S, 68, 2) of both, pixels.
        identity_landmarks: (1, 68, 2).

    Returns:
        (3, H, W), the median over the frames.
    """
    height, width = real.shape[-2:]
    flow = coarse_flow(identity_landmarks.expand_as(landmarks), landmarks, height, width)
    missing = warp_by_flow(real - made, flow).median(dim=0).values.clamp(-LIMIT, LIMIT)
    lips = affinity(identity_landmarks[0, list(MOUTH)], (height, width), 1, LIPS * width / 128).amax(-1)
    return missing * (1 - lips)


def put_back(made: Tensor, texture: Tensor, landmarks: Tensor, identity_landmarks: Tensor) -> Tensor:
    """Frames (S, 3, H, W) of landmarks (S, 68, 2) with the texture (3, H, W) that :func:`missed` found."""
    height, width = made.shape[-2:]
    flow = coarse_flow(landmarks, identity_landmarks.expand_as(landmarks), height, width)
    return made + warp_by_flow(texture.expand_as(made), flow)
