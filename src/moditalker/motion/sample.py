"""AToM over sound of any length: window by window with overlap, each anchored to the source's l_id.

The paper chains windows (the last generated frame becomes the next l_id); here every window has the
source's own l_id, so nothing drifts, and neighbours share and blend ``overlap`` frames of one starting
noise [ours].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from moditalker.config import AtomConfig
from moditalker.diffusion.process import Diffusion, guide
from moditalker.geometry.points import smooth_step
from moditalker.motion.atom import NUMBERS, SPEECH_PER_FRAME, Atom, from_x0

Array = NDArray[np.float32]


def sample_motion(
    model: Atom,
    diffusion: Diffusion,
    speech: Iterable[Array],
    l_id: Array,
    seed: int = 0,
    steps: int | None = None,
) -> Iterator[Array]:
    """Make landmarks from speech, as a stream.

    A frame's landmarks come once the speech of its whole window has arrived: a fixed look-ahead of at
    most ``model.config.frames``, or of `waited` if ``model.config.causal``. After the speech's end,
    its last feature repeats.

    Args:
        model, diffusion: of one config; the model in eval mode.
        speech: blocks (n, D) of speech features at 50 Hz, two for each frame in all.
        l_id: (68, 3) the source's frontal landmarks, canonical units; every window is anchored to them.
        seed: seed of the starting noise; a frame has the same noise in each window.
        steps: DDIM steps; by default the config's.
    Yields:
        (n, 68, 3) float32, frontal, canonical units, 25 Hz; S frames in all for 2S features.
    """
    config = model.config
    window, hop = config.frames, config.frames - config.overlap
    if hop <= 0:
        raise ValueError(f"overlap {config.overlap} of windows of {window} frames: it must be smaller")
    device = next(model.parameters()).device
    identity = torch.as_tensor(np.asarray(l_id, np.float32).reshape(1, NUMBERS), device=device)
    generator = torch.Generator().manual_seed(seed)
    if config.causal:
        yield from _causal(model, diffusion, speech, identity, generator, steps)
        return
    noise = torch.randn(config.overlap, NUMBERS, generator=generator)
    rise = (np.arange(config.overlap, dtype=np.float32) + 1) / (config.overlap + 1)
    rise = smooth_step(rise)[:, None]
    before: Array | None = None  # the last window's view of this window's first frames

    for features, frames in _windows(speech, SPEECH_PER_FRAME * window, SPEECH_PER_FRAME * hop):
        fresh = torch.randn(hop, NUMBERS, generator=generator)
        noise = torch.cat([noise, fresh])  # S 204
        x0 = _denoise(model, diffusion, features, identity, noise, steps)
        landmarks = from_x0(x0, identity, config)[0].cpu().numpy()  # S 204
        noise = noise[hop:]
        if before is not None:
            landmarks[: config.overlap] = before + rise * (landmarks[: config.overlap] - before)
        before = landmarks[hop:]
        yield landmarks[:frames].reshape(frames, -1, 3)


def waited(config: AtomConfig) -> int:
    """Frames of speech, its own included, that a frame's landmarks wait for."""
    return config.frames - config.overlap + config.ahead if config.causal else config.frames


def _causal(
    model: Atom,
    diffusion: Diffusion,
    speech: Iterable[Array],
    identity: torch.Tensor,
    generator: torch.Generator,
    steps: int | None,
) -> Iterator[Array]:
    """As `sample_motion`, but windows end with the latest speech, and only their newest frames are used."""
    config = model.config
    window, hop, ahead = config.frames, config.frames - config.overlap, config.ahead
    noise = torch.zeros(0, NUMBERS)  # noise of the window's frames
    for features, fresh, new in _last_windows(speech, window, hop, ahead):
        noise = torch.cat([noise, torch.randn(fresh, NUMBERS, generator=generator)])[-window:]
        x0 = _denoise(model, diffusion, features, identity, noise, steps)
        landmarks = from_x0(x0, identity, config)[0].cpu().numpy()  # n 204
        first = len(landmarks) - ahead - hop
        yield landmarks[first : first + new].reshape(new, -1, 3)


def _last_windows(
    blocks: Iterable[Array], window: int, hop: int, ahead: int
) -> Iterator[tuple[Array, int, int]]:
    """Blocks of features -> windows (2 n, D): earlier frames as far as they fit, `hop` new ones, ``ahead``
    later ones; how many of the n frames are in no earlier window; how many of the new ones exist.
    """
    held, start = np.zeros((0, 0), np.float32), 0  # features, from this frame on
    done = heard = 0  # frames that were output, frames that were in a window
    for block in chain(blocks, [None]):
        frames: float = math.inf
        if block is not None:
            held = np.concatenate([held, block]) if held.size else np.asarray(block, np.float32)
        elif held.size:
            frames = start + -(-len(held) // SPEECH_PER_FRAME)
            held = np.pad(held, ((0, SPEECH_PER_FRAME * (hop + ahead) + 1), (0, 0)), "edge")
        while done < frames and SPEECH_PER_FRAME * (done + hop + ahead - start) <= len(held):
            first, stop = max(0, done + hop + ahead - window), done + hop + ahead
            heard_now = held[SPEECH_PER_FRAME * (first - start) : SPEECH_PER_FRAME * (stop - start)]
            yield heard_now, stop - heard, int(min(hop, frames - done))
            held, start = held[SPEECH_PER_FRAME * (first - start) :], first
            done, heard = done + hop, stop


@torch.inference_mode()
def _denoise(
    model: Atom,
    diffusion: Diffusion,
    features: Array,
    identity: torch.Tensor,
    noise: torch.Tensor,
    steps: int | None,
) -> torch.Tensor:
    """One window: features (2S, D), identity (1, 204), noise (S, 204) -> x0 (1, S, 204)."""
    speech = torch.as_tensor(features, device=identity.device)[None]
    if model.first_estimate is not None and not model.config.added:  # its output would not count
        result: torch.Tensor = model.first_estimate(speech, identity[:, None].expand(-1, len(noise), -1))
        return result
    conditions = model.encode(speech, identity)
    weight = diffusion.config.guidance
    dropped = torch.ones(1, dtype=torch.bool, device=identity.device)
    nothing = model.encode(speech, identity, dropped) if weight != 1 else conditions
    denoise = guide(
        lambda xt, t: model.denoise(xt, t, conditions), lambda xt, t: model.denoise(xt, t, nothing), weight
    )
    return diffusion.sample(denoise, noise[None].to(identity.device), steps)


def _windows(blocks: Iterable[Array], length: int, hop: int) -> Iterator[tuple[Array, int]]:
    """Blocks of features -> windows (length, D), ``hop`` apart, and how many of a window's frames are final.

    The last window is filled up with its last feature, and all its frames are final.
    """
    held: Array | None = None
    for block in blocks:
        block = np.asarray(block, np.float32)
        held = block if held is None else np.concatenate([held, block])
        while len(held) > length:  # more follows, so this is not the last window
            yield held[:length], hop // SPEECH_PER_FRAME
            held = held[hop:]
    if held is not None and len(held):
        padding = np.repeat(held[-1:], length - len(held), axis=0)
        yield np.concatenate([held, padding]), -(-len(held) // SPEECH_PER_FRAME)
