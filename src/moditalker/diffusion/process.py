"""Diffusion over any array: schedule, noising, loss, DDIM (paper, Eqs. 1-3). Knows no network.

A network comes in as ``denoise(xt, t) -> prediction`` with xt (B, ...), t (B,) integers in [0, T), and a
prediction of xt's shape: x0 or the noise, as the config says. ``alphas_cumprod[t]`` is the paper's alpha_t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from moditalker.config import DiffusionConfig

Denoise = Callable[[Tensor, Tensor], Tensor]
OTHER_SEEDS = 2**40
Generators = torch.Generator | Sequence[torch.Generator]


def cosine_betas(timesteps: int, s: float = 0.008) -> Tensor:
    """Cosine schedule, clipped at 0.999: (T,) float64 [released AToM]."""
    grid = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    remaining = torch.cos((grid + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - remaining[1:] / remaining[:-1]).clamp(max=0.999)


def sqrt_linear_betas(timesteps: int, start: float, end: float) -> Tensor:
    """Squares of evenly spaced numbers from sqrt(start) to sqrt(end): (T,) float64 [released MToV]."""
    return torch.linspace(math.sqrt(start), math.sqrt(end), timesteps, dtype=torch.float64) ** 2


def generators(seed: int, count: int = 1) -> list[torch.Generator]:
    """Make one generator per sample, with seeds ``seed``, ``seed + 1``, ...: a batch equals its samples."""
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def draw_noise(shape: Sequence[int], generator: Generators, device: torch.device | str = "cpu") -> Tensor:
    """Draw standard normal numbers, float32, on the CPU so that every device gets the same ones, then move.

    With a list of generators, sample i of the batch comes from generator i. With one generator, samples are
    drawn from it one after the other. Raises ValueError if the list is not as long as the batch.
    """
    streams = [generator] * shape[0] if isinstance(generator, torch.Generator) else list(generator)
    if len(streams) != shape[0]:
        raise ValueError(
            f"{len(streams)} generators for a batch of {shape[0]}: one for each sample is needed"
        )
    return torch.stack([torch.randn(tuple(shape[1:]), generator=stream) for stream in streams]).to(device)


def guide(conditional: Denoise, unconditional: Denoise, weight: float) -> Denoise:
    """Classifier-free guidance, uncond + weight (cond - uncond); weight 1 calls ``conditional`` alone."""
    if weight == 1:
        return conditional

    def guided(xt: Tensor, t: Tensor) -> Tensor:
        base = unconditional(xt, t)
        return base + weight * (conditional(xt, t) - base)

    return guided


class Diffusion:
    """The process of Eqs. 1-3. Coefficients are float64 on the CPU; arrays keep their dtype and device."""

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        if config.predict not in ("x0", "noise"):
            raise ValueError(f'predict is {config.predict!r}; "x0" or "noise" is needed')
        if config.schedule == "cosine":
            self.betas = cosine_betas(config.timesteps)
        elif config.schedule == "sqrt-linear":
            self.betas = sqrt_linear_betas(config.timesteps, config.beta_start, config.beta_end)
        else:
            raise ValueError(f'schedule is {config.schedule!r}; "cosine" or "sqrt-linear" is needed')
        self.alphas_cumprod = torch.cumprod(1 - self.betas, dim=0)

    def _signal_and_noise(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a), sqrt(1 - a) at t (B,), shaped to multiply ``like`` (B, ...)."""
        a = self.alphas_cumprod[t.cpu()].view(-1, *[1] * (like.ndim - 1))
        return a.sqrt().to(like), (1 - a).sqrt().to(like)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Eq. 1: x0 (B, ...) noised to timesteps t (B,)."""
        signal, sigma = self._signal_and_noise(t, x0)
        return signal * x0 + sigma * noise  # Eq. 1

    def draw_timesteps(self, count: int, generator: torch.Generator, first: float = 0.0) -> Tensor:
        """Timesteps (count,) to train at, uniform but for a share ``first`` at T - 1."""
        last = self.config.timesteps - 1
        t = torch.randint(0, last + 1, (count,), generator=generator)
        return torch.where(torch.rand(count, generator=generator) < first, last, t)

    def loss(self, predicted: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
        """Eq. 2, as a mean over all numbers: squared error of the predicted x0 (or noise). A scalar."""
        target = x0 if self.config.predict == "x0" else noise
        return (predicted - target).square().mean()  # Eq. 2

    def predicted_x0(self, prediction: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """Convert a prediction to x0 (predicted noise by Eq. 1), clamped as the config says."""
        if self.config.predict == "noise":
            signal, sigma = self._signal_and_noise(t, xt)
            prediction = (xt - sigma * prediction) / signal
        return prediction.clamp(-self.config.clip, self.config.clip) if self.config.clip else prediction

    def timesteps(self, steps: int, start: int = 0) -> list[int]:
        """``steps`` timesteps from high to low, evenly over [0, start), or [0, T) if ``start`` is 0."""
        end = start or self.config.timesteps
        if not 1 <= steps <= end <= self.config.timesteps:
            raise ValueError(
                f"{steps} steps over {end} timesteps: steps from 1 to {end} of at most "
                f"{self.config.timesteps} are needed"
            )
        return torch.linspace(-1, end - 1, steps + 1).int().tolist()[:0:-1]

    @torch.no_grad()
    def sample(
        self,
        denoise: Denoise,
        shape: Sequence[int] | Tensor,
        steps: int | None = None,
        eta: float | None = None,
        generator: Generators | None = None,
        start_from: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Eq. 3: DDIM from noise, or from a first estimate that is noised, to x0.

        shape: (B, ...) of the result, or the starting noise itself, whose device and dtype are then used.
        steps: network calls. eta: chance in each, 0 none, 1 as in DDPM. Both: by default the config's.
        generator: one per sample (see :func:`draw_noise`); by default fixed ones.
        start_from: (B, ...) first estimate of x0. It is noised by the config's ``start`` of the T timesteps
            (0: all of them), and the ``steps`` are spread over these [released MToV].
        Returns (B, ...), clamped as the config says. Raises ValueError if the steps do not fit.
        """
        steps = self.config.sampling_steps if steps is None else steps
        eta = self.config.eta if eta is None else eta
        batch = len(shape) if isinstance(shape, Tensor) else shape[0]
        if generator is None:  # not the seeds from which a caller drew the starting noise
            generator = generators(OTHER_SEEDS, batch)
        noise = shape if isinstance(shape, Tensor) else draw_noise(shape, generator, device)
        start = 0 if start_from is None else self.config.start
        times = self.timesteps(steps, start)

        x = noise if start_from is None else self.add_noise(start_from, noise, self._full(times[0], batch))
        for time, following in zip(times, [*times[1:], -1], strict=True):
            x0 = self._x0_at(denoise, x, time)
            if following < 0:
                return x0
            x = self.step(x, x0, time, following, eta)
            if sigma := eta * self._spread(time, following):
                x = x + sigma * draw_noise(x.shape, generator, x.device).to(x.dtype)
        raise AssertionError("unreachable: the last timestep returns")

    @torch.no_grad()
    def two_steps_in_one(
        self, denoise: Denoise, xt: Tensor, time: int, middle: int, following: int
    ) -> Tensor:
        """Return the x0 (B, ...) for which one DDIM step (eta 0) from ``time`` to ``following`` gives the
        same result as two steps through ``middle``; following -1: x0 (Salimans and Ho 2022, appendix G).
        """
        batch = len(xt)
        halfway = self.step(xt, self._x0_at(denoise, xt, time), time, middle)
        x0 = self._x0_at(denoise, halfway, middle)
        if following < 0:
            return x0
        end = self.step(halfway, x0, middle, following)
        (signal, sigma), (signal_end, sigma_end) = (
            self._signal_and_noise(self._full(moment, batch), xt) for moment in (time, following)
        )
        ratio = sigma_end / sigma
        return (end - ratio * xt) / (signal_end - ratio * signal)

    def _x0_at(self, denoise: Denoise, x: Tensor, time: int) -> Tensor:
        t = self._full(time, len(x)).to(x.device)
        return self.predicted_x0(denoise(x, t), x, t)

    def step(self, x: Tensor, x0: Tensor, time: int, following: int, eta: float = 0.0) -> Tensor:
        """Eq. 3 without its chance: x (B, ...) at ``time`` to ``following``, given the predicted x0."""
        a, a_next = self.alphas_cumprod[time].item(), self.alphas_cumprod[following].item()
        direction = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
        sigma = eta * self._spread(time, following)
        return math.sqrt(a_next) * x0 + math.sqrt(max(1 - a_next - sigma**2, 0.0)) * direction  # Eq. 3

    def _spread(self, time: int, following: int) -> float:
        """Standard deviation of the noise in a DDPM-like step."""
        a, a_next = self.alphas_cumprod[time].item(), self.alphas_cumprod[following].item()
        return math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))

    @staticmethod
    def _full(time: int, batch: int) -> Tensor:
        return torch.full((batch,), time, dtype=torch.long)
