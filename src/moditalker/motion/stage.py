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
        atom: in eval mode, on the device that is to be used.
        config: of the diffusion that it was trained with. rules: which of our rules change its motion.
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
        """Landmarks of the speech.

        Args:
            speech: blocks (n, D) of features at 50 Hz.
            identity: of the face; its own lip motion sets the size (``atom.own_size``).
            seed, steps: of sampling; steps None: the config's.
            silence: how much each frame of 25 Hz is silent, 0 to 1; None: unknown.

        Yields:
            (n, 68, 3) float32, frontal, canonical units, 25 Hz.
        """
        said = sample_motion(self.atom, self.diffusion, speech, identity.frontal, seed, steps)
        if self.rules.uncross:
            said = map(uncrossed, said)
        if self.atom.config.own_size:
            said = iter(styled(said, identity.frontal, own_style(identity.moves, self.atom.config.own_size)))
        if self.rules.silence and silence is not None:
            said = hush(said, silence, identity.frontal)
        return said


def hush(motion: Iterable[Array], silence: Iterable[float], l_id: Array) -> Iterator[Array]:
    """Motion (n, 68, 3) at 25 Hz, with the mouth of ``l_id`` (68, 3) shut and still in silence.

    silence: how much each frame is silent, 0 to 1; frames after its end are silent.
    """
    rest, weights = shut_mouth(l_id), iter(silence)
    for block in motion:
        weight = np.array([next(weights, 1.0) for _ in block], np.float32)[:, None, None]
        weight = smooth_step(weight)
        yield (block + weight * (rest - block)).astype(np.float32)
