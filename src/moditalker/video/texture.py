"""Restores the source's own skin texture and teeth in generated frames [ours].

A small model blurs moles, stubble and the edge of a lip. Its error is measured on reproduced frames of
the source. With the motion of the face removed, this error depends mainly on the shape of the lips. So
it is learnt as a function of that shape, and predicted for other lips: the source's own speech does not
show through. Teeth come from frames of the source with an open mouth: from those whose lips are most
alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moditalker.geometry.points import LIP_INNER
from moditalker.video.warp import coarse_flow, mouth_interior, warp_by_flow

ALIKE = 0.5  # pixels of a crop of 128 by which inner lips may differ and count as alike
FEW = 0.05  # weight under which a mouth is left out
LIMIT = 0.3  # largest correction, of a range of 2: more is a hand or a shadow, not skin
SPREAD = 0.15  # largest distance from the median of frames learnt together: more is a thing in front
SHAPE = 6  # numbers of the lips' shape
MEMORY = 64.0  # frames that count: older ones fade
STIFFNESS = 6.0  # ridge penalty, in frames: so many frames weigh as much as the prior
FOLLOWED = 2.0  # deviations from the shapes seen at which shapes are clamped


def with_teeth(
    made: Tensor, landmarks: Tensor, mouths: Tensor, mouth_landmarks: Tensor, share: float
) -> Tensor:
    """Give frames (S, 3, H, W) with landmarks (S, 68, 2) the inside of open mouths like theirs.

    Args:
        mouths: (K, 3, H, W), frames of the same person; mouth_landmarks: (K, 68, 2), pixels. The nearer the
            shape of the inner lips, the more a frame counts.
        share: weight of these mouths, 0 to 1; the rest stays generated.
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


class Texture:
    """The model's error on frames of one person, as a function of the shape of their lips.

    Ridge regression of the missing pixels on :func:`lip_shape`, by running sums: memory is constant, and
    older frames fade. Pixels are those of the identity's face.

    Args:
        identity_landmarks: (1, 68, 2), pixels of the region.
        known: slopes (F, 3, H, W) to start from, and the landmarks (1, 68, 2) of their face.
        memory: frames that count.
    """

    def __init__(
        self,
        identity_landmarks: Tensor,
        known: tuple[Tensor, Tensor] | None = None,
        memory: float = MEMORY,
    ) -> None:
        self.landmarks, self.memory = identity_landmarks, memory
        self.known: Tensor | None = None
        if known is not None:
            there, landmarks = known
            flow = coarse_flow(identity_landmarks, landmarks, *there.shape[-2:])
            self.known = warp_by_flow(there, flow.expand(len(there), -1, -1, -1))
        self.sums: tuple[Tensor, Tensor] | None = None  # products of (1, shape) with itself, with pixels
        self.learnt: tuple[Tensor, Tensor, Tensor, Tensor] | None = None  # usual, reach, mean, slopes

    def learn(self, made: Tensor, real: Tensor, landmarks: Tensor) -> None:
        """Learn from frames made of real ones, (S, 3, H, W) in [-1, 1] each; landmarks (S, 68, 2)."""
        height, width = real.shape[-2:]
        flow = coarse_flow(self.landmarks.expand_as(landmarks), landmarks, height, width)
        missing = warp_by_flow(real - made, flow)
        usual = missing.median(dim=0).values
        missing = torch.where((missing - usual).abs() <= SPREAD, missing, usual).clamp(-LIMIT, LIMIT)
        shape = lip_shape(landmarks, width)
        shape = torch.cat([torch.ones_like(shape[:, :1]), shape], dim=1)  # S 1+F
        shapes, pixels = shape.T @ shape, torch.einsum("sf,schw->fchw", shape, missing)
        if self.sums is not None:
            kept = max(0.0, 1 - len(landmarks) / self.memory)
            shapes, pixels = kept * self.sums[0] + shapes, kept * self.sums[1] + pixels
        self.sums, self.learnt = (shapes, pixels), None

    def put_back(self, made: Tensor, landmarks: Tensor) -> Tensor:
        """Add the learnt error, if any, to frames (S, 3, H, W) with landmarks (S, 68, 2)."""
        if self.sums is None:
            return made
        if self.learnt is None:
            usual, mean, spread, change = centred(*self.sums)
            reach = FOLLOWED * (spread.diagonal() / self.sums[0][0, 0]).clamp_min(0).sqrt()
            self.learnt = usual, reach, mean, slopes(spread, change, self.known)
        usual, reach, mean, answers = self.learnt
        height, width = made.shape[-2:]
        shape = (lip_shape(landmarks, width) - usual).clamp(-reach, reach)  # S F
        missing = mean + torch.einsum("sf,fchw->schw", shape, answers)
        flow = coarse_flow(landmarks, self.landmarks.expand_as(landmarks), height, width)
        return made + warp_by_flow(missing.clamp(-LIMIT, LIMIT), flow)


def centred(shapes: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums of a `Texture` -> mean shape (F,), mean error (3, H, W), and sums of products of the deviations
    from them: (F, F) of shapes, (F, 3, H, W) of shapes and pixels.
    """
    count = shapes[0, 0]
    usual, mean = shapes[0, 1:] / count, pixels[0] / count
    spread = shapes[1:, 1:] - count * usual.outer(usual)
    return usual, mean, spread, pixels[1:] - count * usual[:, None, None, None] * mean


def slopes(spread: Tensor, change: Tensor, known: Tensor | None = None) -> Tensor:
    """Slopes (F, 3, H, W) of the error on the shape, by ridge regression, pulled to known ones or to 0."""
    if known is not None:
        change = change - torch.einsum("fg,gchw->fchw", spread, known)
    ridge = spread + STIFFNESS * torch.eye(len(spread), device=spread.device)
    found = torch.linalg.solve(ridge, change.flatten(1)).unflatten(1, change.shape[1:])
    result: Tensor = found if known is None else known + found
    return result


def lip_shape(landmarks: Tensor, width: int) -> Tensor:
    """Describe the shape of the lips: (S, 68, 2) -> (S, SHAPE), numbers of about 1 in speech.

    Opening and width; upper lip, lower lip, corners and chin below the nose. The place of the face does not
    matter.
    """
    x, y = (landmarks * (128 / width)).unbind(-1)  # S 68 each
    nose = y[:, 30:36].mean(dim=1)
    numbers = (
        ((y[:, 65:68] - y[:, [63, 62, 61]]).mean(dim=1), 2.0),
        (x[:, 54] - x[:, 48], 3.0),
        (y[:, 50:53].mean(dim=1) - nose, 1.5),
        (y[:, 56:59].mean(dim=1) - nose, 3.0),
        (y[:, [48, 54]].mean(dim=1) - nose, 2.0),
        (y[:, 8] - nose, 3.0),
    )
    return torch.stack([number / pixels for number, pixels in numbers], dim=1)
