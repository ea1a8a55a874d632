"""The source's own skin and teeth, given back to what is generated [ours].

A small model blurs: moles, stubble, folds. What it misses of the source's frames, when it is asked to make
just these, is nearly the same on all frames of a shot once the motion of the face is taken out, so it is
known for frames whose mouth is another one. Lips are left out, or the source's speech would show through.
Teeth come from frames of the source whose mouths are open, each time from those whose lips are most alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moditalker.landmarks import LIP_INNER, MOUTH
from moditalker.video.warp import affinity, coarse_flow, mouth_interior, warp_by_flow

LIPS = 4.0  # pixels of a crop of 128 around the lips' points, where the source's speech would show through
ALIKE = 0.5  # pixels of a crop of 128 by which inner lips may differ and count as alike
FEW = 0.05  # weight under which a mouth is left out
LIMIT = 0.3  # of what is given back, of a range of 2: more is a hand or a shadow, not skin


def with_teeth(
    made: Tensor, landmarks: Tensor, mouths: Tensor, mouth_landmarks: Tensor, share: float
) -> Tensor:
    """Frames (S, 3, H, W) of landmarks (S, 68, 2) with what open mouths like theirs show between their lips.

    Args:
        mouths: (K, 3, H, W), frames of the same person; mouth_landmarks: (K, 68, 2), pixels. The nearer the
            shape of the inner lips, the more a frame counts.
        share: of it, from 0 to 1; the rest stays what was made.
    """
    height, width = made.shape[-2:]
    inside = mouth_interior(landmarks, height, width)
    distance = torch.cdist(_inner(landmarks), _inner(mouth_landmarks)) * 128 / width
    weight = (distance.square() / (-2 * ALIKE**2)).softmax(dim=1)  # S K
    weight = weight * (weight > FEW) * (inside.flatten(1).amax(1, keepdim=True) > 0)
    frame, mouth = weight.nonzero(as_tuple=True)
    flow = coarse_flow(landmarks[frame], mouth_landmarks[mouth], height, width)
    gaps = mouth_interior(mouth_landmarks, height, width)
    seen, gap = warp_by_flow(torch.cat([mouths, gaps], dim=1)[mouth], flow).split([3, 1], dim=1)
    part = gap * weight[frame, mouth][:, None, None, None]
    total = made.new_zeros(len(made), 4, height, width)
    total.index_add_(0, frame, torch.cat([seen * part, part], dim=1))
    seen, known = total.split([3, 1], dim=1)
    return torch.lerp(made, seen / known.clamp_min(1e-3), share * inside * known.clamp(max=1))


def _inner(landmarks: Tensor) -> Tensor:
    """(N, 68, 2) -> (N, 16): the inner lips about their middle."""
    points = landmarks[:, list(LIP_INNER)]
    return (points - points.mean(dim=1, keepdim=True)).flatten(1)


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
