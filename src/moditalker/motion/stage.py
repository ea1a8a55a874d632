"""The motion stage: speech features, silences and an identity in, frontal landmarks out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from moditalker.config import DiffusionConfig, RulesConfig
from moditalker.diffusion.process import Diffusion
from moditalker.geometry.looks import Identity
from moditalker.geometry.points import shut_mouth, smooth_step
from moditalker.motion.atom import Atom
from moditalker.motion.dynamics import uncrossed
from moditalker.motion.edit import own_style, styled
from moditalker.motion.sample import sample_motion

Array = NDArray[np.float32]


class MotionStage:
    """AToM with its diffusion process.

    Args:
        atom: in eval mode, on the device to use.
        config: the diffusion settings of its training. rules: the rules applied to the motion.
    """

    def __init__(self, atom: Atom, config: DiffusionConfig, rules: RulesConfig) -> None:
        self.atom, self.diffusion, self.rules = atom, Diffusion(config), rules

    def __call__(
        self,
        speech: Iterable[Array],
        identity: Identity,
        seed: int = 0,
        steps: int | None = None,
        silence: Iterable[float] | None = None,
    ) -> Iterator[Array]:
        """Make the landmarks of a speech.

        Args:
            speech: blocks (n, D) of features at 50 Hz.
            identity: the face. Its own lip motion scales the result (``atom.own_size``).
            seed, steps: for sampling. If steps is None, the config's number is used.
            silence: degree of silence per frame at 25 Hz, 0 to 1. If None, no mouth is shut.

        Yields:
            (n, 68, 3) float32, frontal, canonical units, 25 Hz.
        """
        motion = sample_motion(self.atom, self.diffusion, speech, identity.frontal, seed, steps)
        if self.rules.uncross:
            motion = map(uncrossed, motion)
        if size := self.atom.config.own_size:
            motion = iter(styled(motion, identity.frontal, own_style(identity.moves, size)))
        if self.rules.silence and silence is not None:
            motion = hush(motion, silence, identity.frontal)
        return motion


def hush(motion: Iterable[Array], silence: Iterable[float], l_id: Array) -> Iterator[Array]:
    """Shut the mouth of ``l_id`` (68, 3) in silence. motion: blocks (n, 68, 3) at 25 Hz.

    silence: degree of silence per frame, 0 to 1; frames after its end are silent.
    """
    rest, weights = shut_mouth(l_id), iter(silence)
    for block in motion:
        weight = np.array([next(weights, 1.0) for _ in block], np.float32)[:, None, None]
        weight = smooth_step(weight)
        yield (block + weight * (rest - block)).astype(np.float32)
