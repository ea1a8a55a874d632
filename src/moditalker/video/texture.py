"""The source's own skin, given back to what is generated [ours].

A small model blurs: moles, stubble, folds. What it misses of the source's frames, when it is asked to make
just these, is nearly the same on all frames of a shot once the motion of the face is taken out, so it is
known for frames whose mouth is another one. Between the lips nothing is carried over.
"""

from __future__ import annotations

from torch import Tensor

from moditalker.video.warp import coarse_flow, mouth_interior, warp_by_flow

LIMIT = 0.3  # of what is given back, of a range of 2: more is a hand or a shadow, not skin


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
    missing = (real - made) * (1 - mouth_interior(landmarks, height, width))
    flow = coarse_flow(identity_landmarks.expand_as(landmarks), landmarks, height, width)
    return warp_by_flow(missing, flow).median(dim=0).values.clamp(-LIMIT, LIMIT)


def put_back(made: Tensor, texture: Tensor, landmarks: Tensor, identity_landmarks: Tensor) -> Tensor:
    """Frames (S, 3, H, W) of landmarks (S, 68, 2) with the texture (3, H, W) that :func:`missed` found."""
    height, width = made.shape[-2:]
    flow = coarse_flow(landmarks, identity_landmarks.expand_as(landmarks), height, width)
    carried = warp_by_flow(texture.expand_as(made), flow)
    return made + carried * (1 - mouth_interior(landmarks, height, width))
