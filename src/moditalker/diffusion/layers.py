"""Layers of both networks: embeddings of time and position, attention, feed-forward, FiLM."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, (..., L, D) each."""


def timestep_embedding(t: Tensor, dim: int, *, cosine_first: bool = False) -> Tensor:
    """Timesteps (B,) -> sinusoids (B, dim), wavelengths from 2 pi to 2 pi 10000.

    The two released networks differ: AToM has [sin, cos] with the last frequency at exactly 1 / 10000, MToV
    (``cosine_first``) has [cos, sin] with the last one just before it [released code].
    """
    half = dim // 2
    steps = torch.arange(half, device=t.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(10000.0) * steps / (half if cosine_first else half - 1))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()] if cosine_first else [angles.sin(), angles.cos()], dim=-1)


def rotary_table(positions: Tensor, dim: int, base: float = 10000.0) -> Rotary:
    """Positions (L,) -> rotary table (L, dim) for :func:`rotate`, one frequency for each adjacent pair."""
    frequencies = base ** (-torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim)
    angles = (positions.float()[:, None] * frequencies).repeat_interleave(2, dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, table: Rotary) -> Tensor:
    """Rotary embedding of x (..., L, D): turn each adjacent pair of numbers by the table's angles."""
    cos, sin = table
    x = x.to(cos.dtype)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * 1j).flatten(-2)  # (even, odd) times i is (-odd, even)
    return (x * cos).addcmul_(turned, sin)


class Attention(nn.Module):
    """Pre-norm self-attention, with a rotary table if given. Only the output projection has a bias."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor, rotary: Rotary | None = None) -> Tensor:
        """(..., L, D) -> (..., L, D), without the residual."""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))  # ... L 3 heads head_dim
        qk, v = qkv[..., :2, :, :], qkv[..., 2, :, :]
        if rotary is not None:
            cos, sin = rotary
            qk = rotate(qk, (cos[:, None, None], sin[:, None, None]))
        q, k, v = (part.transpose(-2, -3) for part in (*qk.unbind(-3), v))  # ... heads L head_dim
        attended = F.scaled_dot_product_attention(q, k, v)  # ... heads L head_dim
        out: Tensor = self.out(attended.transpose(-2, -3).flatten(-2))
        return out


class FeedForward(nn.Module):
    """Pre-norm feed-forward: GEGLU, value * gelu(gate), or plain GELU if `gated` is False."""

    def __init__(self, dim: int, hidden: int, gated: bool = True) -> None:
        super().__init__()
        self.gated = gated
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, 2 * hidden if gated else hidden)
        self.outer = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), without the residual."""
        x = self.inner(self.norm(x))
        if self.gated:
            value, gate = x.chunk(2, dim=-1)
            x = value * F.gelu(gate)
        else:
            x = F.gelu(x)
        out: Tensor = self.outer(x)
        return out


class CrossAttention(nn.Module):
    """Attention. Queries, keys and values are separate inputs. All projections have a bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D), (B, M, D), (B, M, D) -> (B, L, D). A key is ignored if ``mask`` (L, M) is False."""
        q = self.query(query).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B heads L head_dim
        k = self.key(key).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B heads M head_dim
        v = self.value(value).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B heads M head_dim
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # B heads L head_dim
        out: Tensor = self.out(attended.transpose(1, 2).flatten(-2))
        return out


class FiLM(nn.Module):
    """Feature-wise linear modulation, (scale + 1) x + shift, steered by a vector [paper, Fig. 2]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale_and_shift = nn.Sequential(nn.Mish(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """(B, L, D), (B, D) -> (B, L, D)."""
        scale, shift = self.scale_and_shift(vector)[:, None].chunk(2, dim=-1)  # B 1 D each
        modulated: Tensor = (scale + 1) * x + shift
        return modulated
