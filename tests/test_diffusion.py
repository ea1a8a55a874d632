"""Diffusion against what is known without it: closed-form Gaussians, DDPM's posterior, scipy's tests."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from moditalker.config import DiffusionConfig
from moditalker.diffusion.process import Denoise, Diffusion, draw_noise, generators, guide

MEAN, DEVIATION = 0.7, 0.3
COSINE = DiffusionConfig(clip=0.0)
SQRT_LINEAR = DiffusionConfig(schedule="sqrt-linear", clip=0.0)
BOTH = pytest.mark.parametrize("config", [COSINE, SQRT_LINEAR], ids=["cosine", "sqrt-linear"])
PREDICT = pytest.mark.parametrize("predict", ["x0", "noise"])


def optimal(diffusion: Diffusion) -> Denoise:
    """E[x0 | xt] where x0 ~ N(MEAN, DEVIATION^2), or the noise it means."""

    def denoise(xt: Tensor, t: Tensor) -> Tensor:
        a = diffusion.alphas_cumprod[t].view(-1, *[1] * (xt.ndim - 1))
        gain = DEVIATION**2 * a.sqrt() / (a * DEVIATION**2 + 1 - a)
        x0 = MEAN + gain * (xt - a.sqrt() * MEAN)
        return x0 if diffusion.config.predict == "x0" else (xt - a.sqrt() * x0) / (1 - a).sqrt()

    return denoise


def constant(value: float) -> Denoise:
    return lambda xt, t: torch.full_like(xt, value)


def test_cosine_schedule() -> None:
    t = np.arange(1, 1001) / 1000
    bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    ours = Diffusion(COSINE).alphas_cumprod.numpy()
    np.testing.assert_allclose(ours[:-1], bar[:-1], rtol=1e-9)
    assert ours[-1] == pytest.approx(ours[-2] * 0.001)  # the last beta is clipped at 0.999


def test_sqrt_linear_schedule() -> None:
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    np.testing.assert_allclose(Diffusion(SQRT_LINEAR).alphas_cumprod, np.cumprod(1 - betas), rtol=1e-9)


@BOTH
def test_noised_arrays_are_gaussian(config: DiffusionConfig) -> None:
    diffusion = Diffusion(config)
    t = torch.tensor([0, 300, 700])
    x0 = torch.full((3, 4000), MEAN)
    xt = diffusion.add_noise(x0, draw_noise(x0.shape, generators(0, 3)), t)
    for row, a in zip(xt, diffusion.alphas_cumprod[t].tolist(), strict=True):
        assert stats.kstest(row.numpy(), "norm", (math.sqrt(a) * MEAN, math.sqrt(1 - a))).pvalue > 0.01


@BOTH
def test_loss_of_the_optimal_denoiser_is_the_posterior_variance(config: DiffusionConfig) -> None:
    diffusion = Diffusion(config)
    for time in (100, 500, 800):
        a = diffusion.alphas_cumprod[time].item()
        x0 = MEAN + DEVIATION * draw_noise((1, 100_000), generators(1)).double()
        noise, t = draw_noise(x0.shape, generators(2)), torch.tensor([time])
        loss = diffusion.loss(optimal(diffusion)(diffusion.add_noise(x0, noise, t), t), x0, noise)
        assert loss.item() == pytest.approx(DEVIATION**2 * (1 - a) / (a * DEVIATION**2 + 1 - a), rel=0.03)


def test_loss_of_a_noise_network_is_on_the_noise() -> None:
    noise = draw_noise((2, 5), generators(0, 2))
    diffusion = Diffusion(replace(COSINE, predict="noise"))
    loss = diffusion.loss(torch.zeros(2, 5), torch.ones(2, 5), noise)
    assert loss.item() == pytest.approx(noise.square().mean().item())


@BOTH
@PREDICT
def test_ddim_solves_the_gaussian_flow(config: DiffusionConfig, predict: str) -> None:
    """With eta 0 a path ends at the quantile of the data's distribution that it had in the noise's."""
    diffusion = Diffusion(replace(config, predict=predict))
    xt = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    a = diffusion.alphas_cumprod[-1]
    exact = MEAN + DEVIATION * (xt - a.sqrt() * MEAN) / (a * DEVIATION**2 + 1 - a).sqrt()
    steps = [abs(diffusion.sample(optimal(diffusion), xt, n, eta=0.0) - exact).max() for n in (50, 200, 1000)]
    assert steps[2] < 0.01
    assert steps[0] > steps[1] > steps[2]


@PREDICT
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_samples_the_data_distribution(eta: float, predict: str) -> None:
    diffusion = Diffusion(replace(COSINE, predict=predict))
    samples = diffusion.sample(optimal(diffusion), (1, 4000), 250, eta, generators(5))
    assert samples.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert samples.std().item() == pytest.approx(DEVIATION, rel=0.04)
    assert stats.kstest(samples[0].numpy(), "norm", (MEAN, DEVIATION)).pvalue > 0.001


def test_eta_1_with_all_steps_is_ddpm() -> None:
    """Against the posterior q(x_{t-1} | x_t, x0) as Ho et al. (2020), Eqs. 6-7, write it."""
    diffusion = Diffusion(replace(SQRT_LINEAR, timesteps=8, beta_end=0.7))
    ours = diffusion.sample(lambda xt, t: xt.sin(), (1, 50), 8, 1.0, generators(3))
    betas = diffusion.betas.numpy()
    bar = np.append(np.cumprod(1 - betas), 1.0)  # bar[-1] belongs to x0
    generator = generators(3)[0]
    x = torch.randn(50, generator=generator).numpy().astype(np.float64)
    for t in range(7, -1, -1):
        x0 = np.sin(x)
        mean = np.sqrt(bar[t - 1]) * betas[t] / (1 - bar[t]) * x0
        mean += np.sqrt(1 - betas[t]) * (1 - bar[t - 1]) / (1 - bar[t]) * x
        deviation = np.sqrt(betas[t] * (1 - bar[t - 1]) / (1 - bar[t]))
        x = mean + (deviation * torch.randn(50, generator=generator).numpy() if t else 0)
    np.testing.assert_allclose(ours[0], x, atol=1e-5)


def test_timesteps() -> None:
    diffusion = Diffusion(COSINE)
    assert diffusion.timesteps(50) == list(range(999, 0, -20))
    assert diffusion.timesteps(1000) == list(range(999, -1, -1))
    assert diffusion.timesteps(25, 250) == diffusion.timesteps(100)[-25:]
    assert diffusion.timesteps(3) == [999, 665, 332]  # 665.67 and 332.33, truncated
    assert diffusion.timesteps(1) == [999]
    for steps, start in ((0, 0), (1001, 0), (251, 250), (5, 1001)):
        with pytest.raises(ValueError, match="are needed"):
            diffusion.timesteps(steps, start)


def test_start_from_a_first_estimate() -> None:
    diffusion = Diffusion(replace(COSINE, start=250))
    seen: list[tuple[int, Tensor]] = []

    def denoise(xt: Tensor, t: Tensor) -> Tensor:
        seen.append((int(t[0]), xt))
        return torch.zeros_like(xt)

    estimate, noise = torch.full((2, 6), 5.0), draw_noise((2, 6), generators(0, 2))
    diffusion.sample(denoise, noise, 25, 0.0, start_from=estimate)
    assert [t for t, _ in seen] == list(range(249, 0, -10))
    assert torch.equal(seen[0][1], diffusion.add_noise(estimate, noise, torch.tensor([249, 249])))
    Diffusion(replace(COSINE, start=100)).sample(denoise, noise, 2, 0.0, start_from=estimate)
    assert [t for t, _ in seen[25:]] == [99, 49]


def test_start_from_keeps_the_distribution() -> None:
    diffusion = Diffusion(replace(COSINE, start=400))
    estimate = MEAN + DEVIATION * draw_noise((1, 4000), generators(8)).double()
    samples = diffusion.sample(optimal(diffusion), (1, 4000), 100, 1.0, generators(9), start_from=estimate)
    assert stats.kstest(samples[0].numpy(), "norm", (MEAN, DEVIATION)).pvalue > 0.001


def test_predictions_are_clamped() -> None:
    diffusion = Diffusion(replace(COSINE, clip=1.0))
    assert torch.equal(diffusion.sample(constant(3.0), (2, 4), 5), torch.ones(2, 4))
    assert torch.equal(Diffusion(COSINE).sample(constant(3.0), (2, 4), 5), torch.full((2, 4), 3.0))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_same_seed_same_bytes_and_a_batch_is_its_samples(eta: float) -> None:
    diffusion = Diffusion(COSINE)

    def sample(*seeds: int) -> Tensor:
        streams = [stream for seed in seeds for stream in generators(seed)]
        return diffusion.sample(lambda xt, t: xt.tanh(), (len(seeds), 3, 7), 10, eta, streams)

    both = sample(11, 12)
    assert torch.equal(both, sample(11, 12))
    assert torch.equal(both, torch.cat([sample(11), sample(12)]))
    assert torch.equal(both, diffusion.sample(lambda xt, t: xt.tanh(), (2, 3, 7), 10, eta, generators(11, 2)))
    assert not torch.equal(both[0], both[1])


def test_one_generator_a_sample() -> None:
    with pytest.raises(ValueError, match="3 generators for a batch of 2"):
        draw_noise((2, 4), generators(0, 3))
    assert not torch.equal(*draw_noise((2, 4), generators(0)[0]))


def test_guidance() -> None:
    xt, t = torch.zeros(1, 2), torch.zeros(1)
    assert torch.equal(guide(constant(3.0), constant(1.0), 2.0)(xt, t), torch.full((1, 2), 5.0))
    conditional = constant(3.0)
    assert guide(conditional, constant(1.0), 1.0) is conditional


def test_unknown_settings() -> None:
    with pytest.raises(ValueError, match="schedule is 'linear'"):
        Diffusion(replace(COSINE, schedule="linear"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="predict is 'v'"):
        Diffusion(replace(COSINE, predict="v"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("first", "share"), [(0.0, 0.001), (0.5, 0.5), (1.0, 1.0)])
def test_timesteps_to_train_at(first: float, share: float) -> None:
    diffusion = Diffusion(DiffusionConfig(timesteps=1000))
    t = diffusion.draw_timesteps(4000, torch.Generator().manual_seed(0), first)
    assert t.min() >= 0
    assert t.max() <= 999
    assert (t == 999).float().mean().item() == pytest.approx(share, abs=0.03)


def test_one_step_of_a_student_ends_where_two_of_its_teacher_do() -> None:
    """Progressive distillation's target, put into Eq. 3 for one step, against the teacher's own two steps."""
    process = Diffusion(DiffusionConfig(clip=0.0, eta=0.0))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 4, generator=generator) / 2

    def teacher(xt: Tensor, t: Tensor) -> Tensor:
        return (xt @ weight).tanh() * (1 - t[:, None] / 2000)

    xt = torch.randn(3, 4, generator=generator)
    for time, middle, following in ((999, 700, 400), (999, 500, -1)):
        target = process.two_steps_in_one(teacher, xt, time, middle, following)
        halfway = process.step(xt, teacher(xt, torch.full((3,), time)), time, middle)
        x0 = teacher(halfway, torch.full((3,), middle))
        if following < 0:
            torch.testing.assert_close(target, x0)
        else:
            torch.testing.assert_close(
                process.step(xt, target, time, following), process.step(halfway, x0, middle, following)
            )
