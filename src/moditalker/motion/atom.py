"""AToM, the audio-to-motion transformer (paper section 3, Fig. 2, Eq. 4): a denoiser of residual landmarks.

Landmarks are (B, S, 204): 68 points (x, y, z) flattened, frontal, canonical units, 25 frames a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moditalker.config import AtomConfig
from moditalker.diffusion.layers import (
    CrossAttention,
    FeedForward,
    FiLM,
    Rotary,
    rotary_table,
    rotate,
    timestep_embedding,
)
from moditalker.geometry.points import LIP_RELATED, LIP_UNRELATED, shut_mouth

POINTS = len(LIP_RELATED) + len(LIP_UNRELATED)  # 68
NUMBERS = 3 * POINTS
SPEECH_PER_FRAME = 2  # speech features at 50 Hz, landmarks at 25 Hz
TIME_TOKENS = 2
ENCODER_LAYERS = 2


def numbers_of(points: Iterable[int]) -> Tensor:
    """Indices of the points' coordinates among the 204 numbers."""
    return torch.tensor([3 * int(point) + axis for point in points for axis in range(3)])


def to_x0(landmarks: Tensor, l_id: Tensor, config: AtomConfig) -> Tensor:
    """Landmarks L (..., S, 204), l_id (..., 204) -> what AToM learns, x0 = scale (L - l_id) [paper]."""
    return config.scale * (landmarks - l_id[..., None, :] if config.residual else landmarks)


def from_x0(x0: Tensor, l_id: Tensor, config: AtomConfig) -> Tensor:
    """Inverse of :func:`to_x0`: landmarks L = l_id + x0 / scale; a zero residual is l_id exactly."""
    return x0 / config.scale + l_id[..., None, :] if config.residual else x0 / config.scale


class RotarySelfAttention(nn.Module):
    """Rotary positions turn the input of queries and keys, over the full width [released]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = CrossAttention(dim, heads)

    def forward(self, x: Tensor, positions: Rotary) -> Tensor:
        turned = rotate(x, positions)
        return self.attention(turned, turned, x)


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: AtomConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.self_attention = RotarySelfAttention(config.width, config.heads)
        self.feed_forward = FeedForward(config.width, config.feed_forward, gated=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, positions: Rotary) -> Tensor:
        x = x + self.dropout(self.self_attention(self.norm(x), positions))
        return x + self.dropout(self.feed_forward(x))


class ConditionEncoder(nn.Module):
    """A sequence -> tokens -> one vector. Audio and landmark encoder share this architecture [paper]."""

    def __init__(self, config: AtomConfig, width: int, length: int) -> None:
        super().__init__()
        d = config.width
        self.project = nn.Linear(width, d)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(ENCODER_LAYERS))
        self.null = nn.Parameter(torch.randn(1, length, d))  # replaces a dropped condition
        self.pool = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, d), nn.SiLU(), nn.Linear(d, d))

    def forward(self, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, width), keep (B,) -> tokens (B, L, D), vector (B, D)."""
        x = self.project(x)  # B L D
        positions = rotary_table(torch.arange(x.shape[1], device=x.device), x.shape[2])
        for layer in self.layers:
            x = layer(x, positions)
        tokens = torch.where(keep[:, None, None], x, self.null[:, : x.shape[1]])  # B L D
        return tokens, self.pool(tokens.mean(dim=1))


class EstimateBlock(nn.Module):
    """A pre-norm residual block: a dilated convolution over time, then a linear layer [ours].

    It sees as far back as ahead; if it is causal, only back.
    """

    KERNEL = 5  # frames, before dilation

    def __init__(self, width: int, dilation: int, dropout: float, causal: bool = False) -> None:
        super().__init__()
        reach = (self.KERNEL - 1) * dilation
        self.padding = (reach, 0) if causal else (reach // 2, reach // 2)
        self.norm = nn.LayerNorm(width)
        self.convolution = nn.Conv1d(width, width, self.KERNEL, dilation=dilation)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        padded = F.pad(self.norm(x).transpose(1, 2), self.padding)
        heard = self.convolution(padded).transpose(1, 2)
        return x + self.dropout(self.out(F.gelu(heard)))


class FirstEstimate(nn.Module):
    """A first estimate of landmarks from the speech around a frame; AToM predicts the remainder [ours].

    Without layers it is linear in the speech `REACH` frames to each side. With layers, dilated
    convolutions see more, and they move the lips and the jaw of l_id from its shut mouth. A few minutes
    of speech train either, and both generalise to new voices. With ``atom.causal``, layers see
    ``atom.ahead`` frames ahead of a frame and no more.
    """

    shut: Tensor  # (204, 204): landmarks -> the same with a shut mouth
    heard: Tensor  # (204,): 1 for lip-related numbers, 0 for others: audio moves only the first [paper]

    REACH = 4  # frames to each side

    def __init__(self, config: AtomConfig, speech_width: int) -> None:
        super().__init__()
        self.config = config
        components, layers, dropout = config.first_estimate, config.estimate_layers, config.dropout
        self.project = nn.Linear(SPEECH_PER_FRAME * speech_width, components)
        self.dropout = nn.Dropout(dropout if layers else 0.0)
        self.blocks = nn.Sequential(
            *(
                EstimateBlock(components, 2 ** (number % 3), dropout, config.causal)
                for number in range(layers)
            )
        )
        self.norm = nn.LayerNorm(components) if layers else nn.Identity()
        self.map = nn.Conv1d(components, NUMBERS, 1 if layers else 2 * self.REACH + 1)
        shut = shut_mouth(np.eye(NUMBERS).reshape(NUMBERS, POINTS, 3)).reshape(NUMBERS, NUMBERS)
        self.register_buffer("shut", torch.from_numpy(shut).float(), persistent=False)
        heard = torch.zeros(NUMBERS)
        heard[numbers_of(LIP_RELATED)] = 1.0
        self.register_buffer("heard", heard, persistent=False)

    @staticmethod
    def by_frame(speech: Tensor) -> Tensor:
        """Put the features of a frame side by side: (B, 2S, speech_width) -> (B, S, 2 speech_width)."""
        return speech.unflatten(1, (-1, SPEECH_PER_FRAME)).flatten(2)

    def components(self, speech: Tensor) -> Tensor:
        """(B, 2S, speech_width) -> (B, components, S + the map's reach), the ends repeated."""
        x = self.dropout(self.project(self.by_frame(speech)))  # B S C
        if self.config.causal and self.config.ahead:  # shift later speech to its frame
            late = x[:, -1:].expand(-1, min(self.config.ahead, x.shape[1]), -1)
            x = torch.cat([x[:, self.config.ahead :], late], dim=1)
        x = self.norm(self.blocks(x))  # B S C
        reach = self.map.kernel_size[0] // 2
        return F.pad(x.transpose(1, 2), (reach, reach), mode="replicate")

    def forward(self, speech: Tensor, l_id: Tensor) -> Tensor:
        """(B, 2S, speech_width), l_id (B, S, 204) -> x0 (B, S, 204)."""
        if not self.config.estimate_layers:
            return self.map(self.components(speech)).transpose(1, 2)
        return self.moved(speech) + to_x0(l_id @ self.shut, l_id[:, 0], self.config)

    def moved(self, speech: Tensor) -> Tensor:
        """With layers: how far the speech moves each number from the shut mouth of any l_id, as x0."""
        return self.heard * self.map(self.components(speech)).transpose(1, 2)


class Conditions(NamedTuple):
    """Outputs of the audio and the landmark encoder; they do not depend on the timestep."""

    speech: Tensor  # (B, 2S, D) F_A
    speech_vector: Tensor  # (B, D)
    landmark: Tensor | None  # (B, S, D) F_L; None without landmark embedding
    landmark_vector: Tensor | None  # (B, D)
    estimate: Tensor | None = None  # (B, S, 204), an estimate of x0, if any


class Memory(NamedTuple):
    """Tokens to attend to, (B, M, D): values, and keys turned by their positions."""

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None  # (S, M): False if a frame may not see a token


class AtomBlock(nn.Module):
    """Fig. 2 (b). The branches share attention, norms and FiLM; only the lips' branch sees the audio."""

    def __init__(self, config: AtomConfig) -> None:
        super().__init__()
        d = config.width
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.film1, self.film2, self.film3 = FiLM(d), FiLM(d), FiLM(d)
        self.self_attention = RotarySelfAttention(d, config.heads)
        self.cross_attention = CrossAttention(d, config.heads)
        self.disentangled = config.disentangled
        self.merge_residual = config.merge_residual
        self.out = nn.Linear(d, 2 * d if config.disentangled else d)
        self.dropout = nn.Dropout(config.dropout)

    def attend(self, x: Tensor, positions: Rotary, memory: Memory | None) -> Tensor:
        """Attention to a memory, or to itself if there is none."""
        if memory is None:
            return self.dropout(self.self_attention(x, positions))
        return self.dropout(self.cross_attention(rotate(x, positions), *memory))

    def branch(self, x: Tensor, vector: Tensor, positions: Rotary, memory: Memory | None) -> Tensor:
        """(B, S, D) -> (B, S, D): self-attention, then cross-attention if there is a memory."""
        x = x + self.film1(self.attend(self.norm1(x), positions, None), vector)
        return x + self.film2(self.attend(self.norm2(x), positions, memory), vector)

    def forward(
        self,
        state: Tensor,
        lip_vector: Tensor,
        upper_vector: Tensor,
        positions: Rotary,
        lip: Memory,
        face: Memory,
    ) -> Tensor:
        """State (B, S, 2D) -> the next: lips, then the upper face; (B, S, D) if not disentangled.

        The vectors (B, D) steer the FiLMs. Lips and merged face attend to the memories.
        """
        if not self.disentangled:  # Table 2 (III): one branch for all points
            merged = self.branch(state, lip_vector, positions, lip)  # B S D
            vector = lip_vector  # B D
        else:
            lips, upper = state.chunk(2, dim=-1)  # B S D each
            lips = self.branch(lips, lip_vector, positions, lip)  # B S D
            upper = self.branch(upper, upper_vector, positions, None)  # B S D
            merged = lips + upper  # B S D
            vector = (lip_vector + upper_vector) / 2  # B D
        seen = self.attend(self.norm3(merged), positions, face)  # B S D
        merged = merged + seen if self.merge_residual else seen  # B S D
        merged = merged + self.film3(merged, vector)  # B S D
        return self.out(merged)  # B S 2D


class Atom(nn.Module):
    """Denoiser of residual landmarks under speech and l_id (Eq. 4).

    config: sizes, and the paper's ablations: ``landmark_embedding`` (Table 2, III) and ``disentangled``
    (IV); ``residual`` (II) is :func:`to_x0`'s. speech_width: width of the speech features.
    """

    order: Tensor  # the 204 numbers' order, branch by branch

    def __init__(self, config: AtomConfig, speech_width: int) -> None:
        super().__init__()
        self.config = config
        d = config.width
        self.time = nn.Sequential(nn.Linear(d, 4 * d), nn.Mish())
        self.time_vector = nn.Linear(4 * d, d)
        self.time_tokens = nn.Linear(4 * d, TIME_TOKENS * d)
        self.speech_encoder = ConditionEncoder(config, speech_width, SPEECH_PER_FRAME * config.frames)
        self.null_speech_vector = nn.Parameter(torch.randn(1, d))
        self.landmark_encoder = (
            ConditionEncoder(config, NUMBERS, config.frames) if config.landmark_embedding else None
        )
        self.first_estimate = FirstEstimate(config, speech_width) if config.first_estimate else None
        self.memory_norm = nn.LayerNorm(d)
        branches = (LIP_RELATED, LIP_UNRELATED) if config.disentangled else (range(POINTS),)
        self.inputs = nn.ModuleList(nn.Linear(3 * len(points), d) for points in branches)
        self.blocks = nn.ModuleList(AtomBlock(config) for _ in range(config.layers))
        self.out = nn.Linear(len(branches) * d, NUMBERS)
        order = torch.cat([numbers_of(points) for points in branches])
        self.register_buffer("order", order, persistent=False)

    def positions(self, frames: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """Positions of the lips' memory and of the merged face's, and which audio a frame may see.

        [paper, released]: places in the concatenation, and all of it. [ours], if ``audio_window`` is set:
        places in time, in frames, and only audio and landmark tokens that near (all landmark tokens,
        which are alike, would drown the audio).
        """
        frame = torch.arange(frames, device=device)
        landmarks = frame if self.config.landmark_embedding else frame[:0]
        if not self.config.audio_window:
            face = len(landmarks) + TIME_TOKENS
            audio = SPEECH_PER_FRAME * frames
            return torch.arange(audio + face, device=device), torch.arange(face, device=device), None
        audio_time = (torch.arange(SPEECH_PER_FRAME * frames, device=device) + 0.5) / SPEECH_PER_FRAME - 0.5
        face_time = torch.cat([landmarks.new_zeros(TIME_TOKENS), landmarks])
        time = torch.cat([audio_time, face_time])
        mask = (time - frame[:, None]).abs() <= self.config.audio_window  # S M
        mask[:, len(audio_time) : len(audio_time) + TIME_TOKENS] = True
        return time, face_time, mask

    def encode(
        self,
        speech: Tensor,
        l_id: Tensor,
        drop_condition: Tensor | None = None,
        estimate: Tensor | None = None,
    ) -> Conditions:
        """Conditions of a window, the same at each timestep: compute once, denoise many times.

        speech (B, 2S, speech_width), l_id (B, 204) or (B, S, 204); S up to ``config.frames``. If
        ``drop_condition`` (B,) is True, learned ones replace both. estimate (B, S, 204) replaces the
        first estimate. Raises ValueError for other sizes.
        """
        frames = speech.shape[1] // SPEECH_PER_FRAME
        if speech.shape[1] != SPEECH_PER_FRAME * frames or frames > self.config.frames:
            raise ValueError(
                f"{speech.shape[1]} speech features; {SPEECH_PER_FRAME} a frame for at most "
                f"{self.config.frames} frames are needed"
            )
        l_id = l_id[:, None].expand(-1, frames, -1) if l_id.ndim == 2 else l_id
        keep = speech.new_ones(len(speech), dtype=torch.bool) if drop_condition is None else ~drop_condition
        tokens, vector = self.speech_encoder(speech, keep)
        vector = torch.where(keep[:, None], vector, self.null_speech_vector)
        if estimate is None and self.first_estimate is not None:
            estimate = self.first_estimate(speech, l_id)
        if estimate is not None:
            estimate = estimate * keep[:, None, None]
        if self.landmark_encoder is None:
            return Conditions(tokens, vector, None, None, estimate)
        landmark, landmark_vector = self.landmark_encoder(l_id, keep)
        return Conditions(tokens, vector, landmark, landmark_vector, estimate)

    def memories(self, conditions: Conditions, time_tokens: Tensor) -> tuple[Memory, Memory]:
        """The memories: of the lips, [audio, time, landmark], and of the merged face, [time, landmark]."""
        frames = conditions.speech.shape[1] // SPEECH_PER_FRAME
        lip_positions, face_positions, mask = self.positions(frames, time_tokens.device)
        face_tokens = [time_tokens] if conditions.landmark is None else [time_tokens, conditions.landmark]
        face = self.memory_norm(torch.cat(face_tokens, dim=1))  # B 2+S D
        lip = torch.cat([self.memory_norm(conditions.speech), face], dim=1)  # B 3S+2 D
        d = self.config.width
        return (
            Memory(rotate(lip, rotary_table(lip_positions, d)), lip, mask),
            Memory(rotate(face, rotary_table(face_positions, d)), face),
        )

    def denoise(self, xt: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """xt (B, S, 204) at timesteps t (B,) -> x0 (B, S, 204). ValueError if S is not the speech's."""
        frames = conditions.speech.shape[1] // SPEECH_PER_FRAME
        if xt.shape[1] != frames:
            raise ValueError(f"{xt.shape[1]} frames of landmarks; the speech is of {frames}")
        time = self.time(timestep_embedding(t.to(xt.device), self.config.width))  # B 4D
        time_tokens = self.time_tokens(time).unflatten(-1, (TIME_TOKENS, -1))  # B 2 D
        lip_memory, face_memory = self.memories(conditions, time_tokens)

        upper_vector = self.time_vector(time)  # B D
        if conditions.landmark_vector is not None:
            upper_vector = upper_vector + conditions.landmark_vector
        lip_vector = upper_vector + conditions.speech_vector
        if self.config.audio_to_upper:  # released: their in-place sum gives both branches everything
            if conditions.landmark_vector is not None:
                lip_vector = lip_vector + conditions.landmark_vector
            upper_vector = lip_vector

        positions = rotary_table(torch.arange(xt.shape[1], device=xt.device), self.config.width)
        parts = xt[..., self.order].split([into.in_features for into in self.inputs], dim=-1)
        parts = [into(part) for into, part in zip(self.inputs, parts, strict=True)]  # B S D each
        state = torch.cat(parts, dim=-1)  # B S 2D
        for block in self.blocks:
            state = block(state, lip_vector, upper_vector, positions, lip_memory, face_memory)  # B S 2D
        x0 = self.out(state)  # B S 204
        estimate, config = conditions.estimate, self.config
        if estimate is None or (config.alone and self.training):
            return x0
        if config.alone:
            return estimate + config.added * (x0 - estimate)
        return estimate + (x0 if self.training else config.added * x0)

    def forward(
        self,
        xt: Tensor,
        t: Tensor,
        speech: Tensor,
        l_id: Tensor,
        drop_condition: Tensor | None = None,
        estimate: Tensor | None = None,
    ) -> Tensor:
        """x0 (B, S, 204) predicted from xt (B, S, 204) at timesteps t (B,); the rest as in :meth:`encode`."""
        return self.denoise(xt, t, self.encode(speech, l_id, drop_condition, estimate))
