"""Speech features: a waveform at 16 kHz becomes feature vectors at 50 Hz, two for each 25 Hz motion frame.

There are two encoders: Whisper tiny.en (in the package) and HuBERT (the paper's; the user's copy). Both
see the sound in a fixed grid of windows. So features do not depend on how the sound is cut into chunks,
and memory does not grow with length. How far a window looks ahead is a setting; preset `live` looks
ahead little.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from moditalker.config import SpeechConfig
from moditalker.errors import UserError
from moditalker.media import SAMPLE_RATE as SAMPLE_RATE
from moditalker.weights import named

TOKEN = 320  # samples of one feature vector: 50 Hz
FRAME = 2 * TOKEN  # samples of one motion frame: 25 Hz

Waveform = NDArray[np.float32]


class SpeechEncoder(ABC):
    """Turns sound into features, window by window."""

    width: int  # of a feature vector
    margin: int  # samples that the encoder needs beyond a window's ends to fill its first and last vector

    def __init__(self, config: SpeechConfig) -> None:
        # Samples for which one window gives features, and those that it also sees before and after them.
        self.core = whole(config.window, FRAME)
        self.before, self.after = whole(config.before, TOKEN), whole(config.after, TOKEN)

    @property
    def ahead(self) -> float:
        """Seconds of sound after the start of a feature vector that it may depend on."""
        return (self.core + self.after + self.margin) / SAMPLE_RATE

    @abstractmethod
    def encode_window(self, samples: Tensor) -> Tensor:
        """One window with its margins (margin + N + margin,) -> (N / TOKEN, width)."""

    def __call__(self, waveform: Waveform) -> Waveform:
        """Features of a whole recording.

        Args:
            waveform: (N,) float32 in [-1, 1], 16 kHz.
        Returns:
            (2S, width) float32 at 50 Hz with S = ceil(N / 640); (0, width) for an empty recording.
        """
        parts = list(self.stream([waveform]))
        return np.concatenate(parts) if parts else np.zeros((0, self.width), np.float32)

    def stream(self, chunks: Iterable[Waveform]) -> Iterator[Waveform]:
        """Features of a recording that arrives in chunks of any size; equal to ``self(whole)``.

        A window's features come out once its sound and ``after`` behind it are there: a fixed
        look-ahead. Before the start and after the end there is silence. Memory is bounded by a window
        and a chunk.

        Args:
            chunks: arrays (n,) float32 in [-1, 1], 16 kHz.
        Yields:
            (n, width) float32 at 50 Hz; 2S vectors in all.
        """
        before, after = self.before + self.margin, self.core + self.after + self.margin
        held = np.zeros(before, np.float32)  # from `before` samples ahead of the next window's core
        total = done = 0  # samples received, samples whose features are out
        for chunk in chunks:
            total += len(chunk)
            held = np.concatenate([held, np.asarray(chunk, np.float32)])
            while len(held) >= before + after:
                yield self._features(held[: before + after])
                held = held[self.core :]
                done += self.core
        end = math.ceil(total / FRAME) * FRAME
        while done < end:
            window = np.pad(held[: before + after], (0, max(0, before + after - len(held))))
            yield self._features(window)[: (end - done) // TOKEN]
            held = held[self.core :]
            done += self.core

    @torch.inference_mode()
    def _features(self, window: Waveform) -> Waveform:
        skip = self.before // TOKEN
        features = self.encode_window(torch.from_numpy(np.array(window, np.float32)))
        return features[skip : skip + self.core // TOKEN].float().cpu().numpy()


class WhisperLayer(nn.Module):
    """A pre-norm transformer layer as Whisper has it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.rise = nn.Linear(width, 4 * width)
        self.fall = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D)
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, L, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, L, d)
        heard = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.projection(heard)
        result: Tensor = x + self.fall(F.gelu(self.rise(self.norm2(x))))
        return result


class WhisperNetwork(nn.Module):
    """The first layers of Whisper's audio encoder [Radford et al. 2022; OpenAI's release]."""

    def __init__(self, layers: int, width: int = 384, heads: int = 6, mels: int = 80) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(WhisperLayer(width, heads) for _ in range(layers))

    def forward(self, mel: Tensor) -> list[Tensor]:
        """Log-mel (B, 80, 2L) -> hidden states, each (B, L, width): before the first layer, after each."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        states = [x + sinusoids(x.shape[1], x.shape[2]).to(x)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states


class WhisperEncoder(SpeechEncoder):
    """Hidden states of Whisper tiny.en, concatenated over ``config.layers``."""

    margin = 200  # half an analysis frame of the spectrogram

    def __init__(self, config: SpeechConfig, device: str | torch.device = "cpu") -> None:
        super().__init__(config)
        state = load_file(named.find("whisper-tiny.en"))
        shipped = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
        deepest = max(config.layers)
        if deepest > shipped or min(config.layers) < 0:
            raise UserError(
                f"speech.layers={list(config.layers)}: the packaged Whisper encoder has 0 to {shipped}"
            )
        network = WhisperNetwork(deepest, width=state["conv1.bias"].numel())
        network.load_state_dict({k: v.float() for k, v in state.items() if k in network.state_dict()})
        self.network = network.to(device).eval().requires_grad_(False)
        self.layers = config.layers
        self.width = state["conv1.bias"].numel() * len(config.layers)
        self.device = torch.device(device)

    def encode_window(self, samples: Tensor) -> Tensor:
        states = self.network(log_mel(samples.to(self.device))[None])
        return torch.cat([states[i][0] for i in self.layers], dim=-1)


class HubertEncoder(SpeechEncoder):
    """Hidden states of a HuBERT model [paper §3], from a local folder or the Hugging Face hub."""

    margin = (400 - TOKEN) // 2  # its convolutions see 400 samples a vector

    def __init__(self, config: SpeechConfig, device: str | torch.device = "cpu") -> None:
        super().__init__(config)
        try:
            transformers: Any = import_module("transformers")  # by name: type checkers need not read it
        except ImportError as error:
            raise UserError(
                "speech.encoder=hubert needs the transformers package: pip install 'moditalker[hubert]',"
                " or choose speech.encoder=whisper"
            ) from error
        try:
            network = transformers.HubertModel.from_pretrained(config.source)
        except (OSError, ValueError) as error:
            raise UserError(
                f"speech.source={config.source}: no HuBERT model could be read there; give a folder with"
                " one (config.json and weights), or a name on the Hugging Face hub while online"
            ) from error
        self.network = network.to(device).eval().requires_grad_(False)
        shipped = self.network.config.num_hidden_layers
        if max(config.layers) > shipped or min(config.layers) < 0:
            raise UserError(
                f"speech.layers={list(config.layers)}: the model at {config.source} has layers 0 to {shipped}"
            )
        self.layers = config.layers
        self.width = self.network.config.hidden_size * len(config.layers)
        self.device = torch.device(device)

    def encode_window(self, samples: Tensor) -> Tensor:
        x = samples.to(self.device)
        x = (x - x.mean()) / torch.sqrt(x.var(correction=0) + 1e-7)  # as its feature extractor does
        states = self.network(x[None], output_hidden_states=True).hidden_states
        return torch.cat([states[i][0] for i in self.layers], dim=-1)


def load_speech_encoder(config: SpeechConfig, device: str | torch.device = "cpu") -> SpeechEncoder:
    """The encoder that ``config`` names.

    Raises:
        UserError: an unknown encoder, layers it does not have, a width that is not the model's, or
            HuBERT's package or weights are missing.
    """
    encoders: dict[str, Callable[[SpeechConfig, str | torch.device], SpeechEncoder]]
    encoders = {"whisper": WhisperEncoder, "hubert": HubertEncoder}
    if config.encoder not in encoders:
        raise UserError(f"speech.encoder={config.encoder}: choose one of {', '.join(encoders)}")
    encoder = encoders[config.encoder](config, device)
    if encoder.width != config.width:
        raise UserError(f"speech.width={config.width}: the chosen layers are {encoder.width} wide; say so")
    return encoder


def whole(seconds: float, unit: int) -> int:
    """Seconds in samples, rounded to a multiple of `unit` samples."""
    return max(1, round(seconds * SAMPLE_RATE / unit)) * unit


def log_mel(samples: Tensor, mels: int = 80) -> Tensor:
    """Whisper's log-mel spectrogram, without padding at the ends [OpenAI's release].

    Frames of 400 samples, 160 apart; floor 8 decades below the loudest of this window.

    Args:
        samples: (200 + N + 200,) in [-1, 1].
    Returns:
        (80, N / 160), about [-1.5, 1.5].
    """
    window = torch.hann_window(400, device=samples.device)
    power = torch.stft(samples, 400, 160, window=window, center=False, return_complex=True)[:, :-1].abs() ** 2
    logs = (mel_filters(mels).to(power) @ power).clamp(min=1e-10).log10()
    return (logs.maximum(logs.max() - 8.0) + 4.0) / 4.0


@cache
def mel_filters(mels: int = 80, size: int = 400) -> Tensor:
    """Triangles of unit area on Slaney's mel scale (logarithmic above 1 kHz): (mels, size / 2 + 1)."""
    knee, slope = 15.0, math.log(6.4) / 27.0  # 1 kHz is mel 15; 27 steps to 6.4 kHz
    top = knee + math.log(SAMPLE_RATE / 2 / 1000.0) / slope
    mel = np.linspace(0.0, top, mels + 2)
    edges = np.where(mel < knee, mel * 1000.0 / knee, 1000.0 * np.exp(slope * (mel - knee)))
    frequency = np.linspace(0.0, SAMPLE_RATE / 2, size // 2 + 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangle = np.minimum((frequency - low) / (centre - low), (high - frequency) / (high - centre))
    return torch.from_numpy((np.maximum(triangle, 0.0) * 2.0 / (high - low)).astype(np.float32))


@cache
def sinusoids(length: int, width: int) -> Tensor:
    """Whisper's position encoding, [sin, cos] with wavelengths from 2 pi to 10000 x 2 pi: (length, width)."""
    frequency = torch.exp(-math.log(10_000.0) / (width // 2 - 1) * torch.arange(width // 2))
    angle = torch.arange(length)[:, None] * frequency[None]
    return torch.cat([angle.sin(), angle.cos()], dim=1)
