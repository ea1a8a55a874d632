"""Voice activity: how likely each moment of a sound is speech, by Silero VAD 6 [Silero Team, MIT].

It sees 32 ms at a time, with 4 ms before them, and has a memory. It does not look ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from moditalker.features.speech.encoders import FRAME as FRAME
from moditalker.weights import named

Array = NDArray[np.float32]

BLOCK = 512  # samples at 16 kHz that one probability is of
BEFORE = 64  # samples that the network also sees of the block before
STFT, HOP = 256, 128  # samples of a spectrum and between two of them

State = tuple[Tensor, Tensor]


class VoiceActivityNetwork(nn.Module):
    """Short-time spectra, four convolutions, a recurrent cell, a probability [released ONNX and weights]."""

    def __init__(self) -> None:
        super().__init__()
        lines = STFT // 2 + 1
        self.stft_conv = nn.Conv1d(1, 2 * lines, STFT, stride=HOP, bias=False)
        self.conv1 = nn.Conv1d(lines, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, blocks: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """Blocks that follow each other, (n, BEFORE + BLOCK) -> probabilities (n,), the state after them."""
        padded = F.pad(blocks[:, None], (0, BEFORE), mode="reflect")  # n 1 L
        real, imaginary = self.stft_conv(padded).chunk(2, dim=1)  # n 129 4 each
        x = (real.square() + imaginary.square()).sqrt()
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(convolution(x))  # n 128 1 in the end
        heard = []
        for one in x.squeeze(-1):
            state = self.lstm_cell(one[None], state)
            heard.append(state[0])
        if not heard:
            return blocks.new_zeros(0), state
        spoken = F.relu(torch.cat(heard))[..., None]  # n 128 1
        return self.final_conv(spoken).sigmoid().flatten(), state


@cache
def load_network() -> VoiceActivityNetwork:
    """The network with the package's weights."""
    network = VoiceActivityNetwork()
    state = load_file(named.find("voice-activity"))
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return network.eval().requires_grad_(False)


def voice_activity(chunks: Iterable[Array]) -> Iterator[float]:
    """The probability of speech in each frame of 25 Hz, as the sound comes in; the last frame may be partial.

    chunks: waveform at 16 kHz in [-1, 1], of any sizes. A frame has the highest probability of its
    blocks.
    """
    network, state = load_network(), None
    held, before = np.zeros(0, np.float32), np.zeros(BEFORE, np.float32)
    total, frames = 0, 0
    found: list[float] = []  # of the blocks from number `first` on
    first = 0

    def take(samples: Array) -> None:
        nonlocal state, before
        whole = np.concatenate([before, samples])
        blocks = np.lib.stride_tricks.sliding_window_view(whole, BEFORE + BLOCK)[::BLOCK]
        with torch.inference_mode():
            probability, state = network(torch.from_numpy(blocks.copy()), state)
        found.extend(probability.tolist())
        before = whole[-BEFORE:]

    def ready(end: int) -> Iterator[float]:
        """Frames whose blocks are all known, up to the sample ``end``."""
        nonlocal frames, first
        while frames * FRAME < end:
            start, stop = frames * FRAME // BLOCK, -(-min((frames + 1) * FRAME, end) // BLOCK)
            if stop > first + len(found):
                return
            yield max(found[start - first : stop - first])
            frames += 1
            gone = frames * FRAME // BLOCK - first
            del found[:gone]
            first += gone

    for chunk in chunks:
        total += len(chunk)
        held = np.concatenate([held, np.asarray(chunk, np.float32)])
        whole = len(held) // BLOCK * BLOCK
        if whole:
            take(held[:whole])
            held = held[whole:]
        yield from ready((first + len(found)) * BLOCK // FRAME * FRAME)
    if len(held):
        take(np.pad(held, (0, BLOCK - len(held))))
    yield from ready(total)
