"""The tri-planes, both decoders, the video stage as one module, and clip-by-clip sampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from moditalker.config import AutoencoderConfig, Config, load
from moditalker.geometry.looks import Identity
from moditalker.video.autoencoder import (
    Autoencoder,
    plane_shape,
    psnr,
    reconstruction_loss,
    still_clip,
    to_patches,
)
from moditalker.video.light import MOST, SAME, gains, lit
from moditalker.video.model import VideoModel, pose_frames
from moditalker.video.stage import VideoSampler, overlapped
from moditalker.video.texture import STIFFNESS, Texture, lip_shape, with_teeth
from moditalker.video.triplane import PlaneShape
from moditalker.video.warp import WarpHead, coarse_flow, landmark_frames, mouth_interior, warp_by_flow

TINY = load("tiny")


def small(config: Config = TINY, **autoencoder: object) -> Config:
    """Tiny made tinier: fast, every part real."""
    settings = {"dim": 32, "head_dim": 8, "encoder_layers": 1, "decoder_layers": 1} | autoencoder
    return replace(
        config,
        autoencoder=replace(config.autoencoder, **settings),  # type: ignore[arg-type]
        mtov=replace(config.mtov, channels=32, blocks=1, multipliers=(1, 2)),
    )


def points(seed: int, *shape: int) -> torch.Tensor:
    """Landmarks somewhere in a region of 72 x 128."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, 68, 2, generator=generator) * torch.tensor([127.0, 71.0])


def video_inputs(config: Config, batch: int = 1) -> tuple[torch.Tensor, ...]:
    a = config.autoencoder
    generator = torch.Generator().manual_seed(1)
    pose = torch.rand(batch, 3, a.frames, a.height, a.width, generator=generator) * 2 - 1
    return pose, pose[:, :, :1], pose[:, :, 0], points(2, batch, a.frames), points(3, batch)


@pytest.mark.parametrize("shape", [(16, 9, 16), (5, 3, 7), (1, 1, 1), (8, 32, 32)])
def test_planes_split_and_join_are_inverse(shape: tuple[int, int, int]) -> None:
    planes = PlaneShape(*shape)
    z = torch.randn(2, 3, planes.cells)
    hw, ws, hs = planes.split(z)
    s, h, w = shape
    assert (hw.shape[2:], ws.shape[2:], hs.shape[2:]) == ((h, w), (s, w), (s, h))
    assert torch.equal(planes.join((hw, ws, hs)), z)


def test_patches_are_rows_columns_channels() -> None:
    video = torch.arange(3 * 16 * 16).float().reshape(1, 3, 1, 16, 16)
    patch = to_patches(video, 8)[0, 0, 1, 0].reshape(8, 8, 3)
    assert torch.equal(patch, video[0, :, 0, 8:, :8].permute(1, 2, 0))


@pytest.mark.parametrize("decoder", ["pixels", "warp"])
@pytest.mark.parametrize("collapse", ["mean", "transformer"])
def test_autoencoder_shapes_and_gradients(decoder: str, collapse: str) -> None:
    config = small(decoder=decoder, collapse=collapse, residual=decoder == "warp")
    model = Autoencoder(config.autoencoder)
    pose, _, identity, landmarks, identity_landmarks = video_inputs(config)
    conditions = (identity, landmarks, identity_landmarks) if decoder == "warp" else ()
    z = model.encode(pose)
    assert z.shape == (1, 8, plane_shape(config.autoencoder).cells)
    assert z.abs().max() < 1
    output = model(pose, *conditions)
    assert output.shape == pose.shape
    (reconstruction_loss(output, pose) + z.square().mean()).backward()  # z: planes against no identity, too
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_planes_see_their_own_axes_only_after_collapse() -> None:
    """A still clip has side planes that do not change over time but for positions: hw is all that varies."""
    config = small()
    model = Autoencoder(config.autoencoder).eval()
    frame = torch.rand(1, 3, 72, 128) * 2 - 1
    with torch.no_grad():
        z = model.encode(still_clip(frame, config.autoencoder.frames))
        moving = model.encode(torch.rand(1, 3, 16, 72, 128) * 2 - 1)
    _, ws, _ = plane_shape(config.autoencoder).split(z)
    _, ws_moving, _ = plane_shape(config.autoencoder).split(moving)
    assert ws.std(dim=2).mean() < 0.1 * ws_moving.std(dim=2).mean() + 1e-4


def test_same_landmarks_warp_nothing() -> None:
    target = points(4, 2)
    assert coarse_flow(target, target, 72, 128).abs().max() == 0
    image = torch.rand(2, 3, 72, 128, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(warp_by_flow(image, torch.zeros(2, 2, 72, 128)), image, atol=1e-5)


def test_flow_looks_where_the_landmark_was() -> None:
    """One landmark moved from (40, 30) to (44, 30): the pixel at its new place looks 4 pixels to the left."""
    before = torch.full((1, 68, 2), -500.0)
    before[0, 50] = torch.tensor([40.0, 30.0])
    after = before.clone()
    after[0, 50, 0] = 44.0
    flow = coarse_flow(after, before, 72, 128)[0, :, 30, 44]
    assert flow[0] == pytest.approx(-4, abs=0.3)
    assert flow[1] == pytest.approx(0, abs=1e-4)


def test_flow_and_mouth_scale_with_the_crop() -> None:
    before = torch.full((1, 68, 2), -500.0)
    before[0, 48:] = 30 + 40 * torch.rand(20, 2, generator=torch.Generator().manual_seed(1))
    after = before + torch.randn(1, 68, 2, generator=torch.Generator().manual_seed(2))
    small, large = (
        coarse_flow(after, before, 72, 128),
        coarse_flow(2 * after + 0.5, 2 * before + 0.5, 144, 256),
    )
    assert torch.nn.functional.avg_pool2d(large, 2) / 2 == pytest.approx(small, abs=0.1)
    assert small.abs().max() > 0.5


def test_mouth_interior_is_what_lies_between_the_inner_lips() -> None:
    face = torch.zeros(2, 68, 2)
    x = torch.tensor([40.0, 45, 50, 55, 60, 55, 50, 45])
    y = torch.tensor([30.0, 26, 25, 26, 30, 35, 37, 35])
    face[:, 60:] = torch.stack([x, y], dim=-1)
    face[1, 60:, 1] = 30.0  # shut
    gap = mouth_interior(face, 72, 128)
    assert gap[0, 0, 31, 50] > 0.99
    assert gap[0, 0, 22, 50] < 0.02
    assert gap[0, 0, 40, 50] < 0.02
    assert gap[0, 0, 30, 30] == 0
    assert gap[0].sum() == pytest.approx(0.5 * 20 * 9 + 40, rel=0.35)
    assert gap[0, 0, :, 50].sum() == pytest.approx(12, abs=0.05)
    assert gap[1].max() == 0
    face[1, [61, 62, 63], 1] = 29.5  # parted by half a pixel, which shows as half of one
    assert mouth_interior(face[1:], 72, 128)[0, 0, :, 50].sum() == pytest.approx(0.5, abs=0.01)


def test_teeth_that_the_identity_shows_are_not_painted_over() -> None:
    shut = torch.zeros(1, 68, 2)
    shut[0, [60, 61, 62, 63, 64, 65, 66, 67], 0] = torch.tensor([44.0, 54, 64, 74, 84, 74, 64, 54])
    shut[..., 1] = 40
    wide = shut.clone()
    wide[0, [61, 62, 63], 1], wide[0, [65, 66, 67], 1] = 32, 48
    torch.manual_seed(0)
    head = WarpHead(8, 8)
    head.fine.weight.data.zero_()
    tokens, identity = torch.zeros(1, 1, 9, 16, 8), torch.ones(1, 3, 72, 128)
    with torch.no_grad():
        of_wide, of_shut = (head(tokens, identity, wide[:, None], start)[0, :, 0] for start in (wide, shut))
    teeth = (slice(None), slice(38, 43), slice(58, 70))
    assert of_wide[teeth].mean() > 0.7
    assert of_shut[teeth].mean() < 0


@pytest.mark.parametrize("style", ["discs", "gaussians"])
def test_landmark_frames_move_with_the_landmarks(style: str) -> None:
    target = torch.full((1, 1, 68, 2), 40.0)
    frames = landmark_frames(target, 72, 128, style)
    moved = landmark_frames(target + 0.25, 72, 128, style)
    assert frames.shape == (1, 3, 1, 72, 128)
    assert frames.min() >= -1
    assert frames.max() <= 1
    assert frames[0, :, 0, 40, 40].min() > 0.9
    assert (frames - moved).abs().max() > 0.02


def test_pose_frames_hide_the_mouth() -> None:
    crops = torch.rand(1, 3, 2, 128, 128)
    pose = pose_frames(crops, 72, 56)
    assert pose.shape == (1, 3, 2, 72, 128)
    assert torch.equal(pose[..., :56, :], crops[..., :56, :])
    assert (pose[..., 56:, :] == -1).all()
    assert crops.min() >= 0


def test_residual_planes_of_the_identity_itself_are_zero() -> None:
    config = small()
    model = Autoencoder(config.autoencoder).eval()
    frame = torch.rand(1, 3, 72, 128) * 2 - 1
    assert model.encode(still_clip(frame, 16), frame).abs().max() < 1e-4
    assert torch.allclose(model.encode_still(frame), model.encode(still_clip(frame, 16)), atol=1e-5)
    assert model.encode(still_clip(-frame, 16), frame).abs().max() > 0.1


def test_normalised_planes_come_back() -> None:
    model = VideoModel(small())
    model.plane_scale.uniform_(0.05, 0.2)
    z = torch.randn(1, *model.plane_scale.shape)
    assert torch.allclose(model.restore(model.normalise(z)), z, atol=1e-6)


def test_all_presets_build_from_the_same_classes() -> None:
    for preset in ("tiny", "paper", "released"):
        with torch.device("meta"):
            model = VideoModel(load(preset))
        assert isinstance(model.autoencoder, Autoencoder)


@pytest.mark.parametrize("count", [1, 3, 12, 16, 17, 28, 40, 41])
def test_windows_give_every_frame_once_in_order(count: int) -> None:
    points = [np.full((68, 2), i, np.float32) for i in range(count)]
    frames = [(np.zeros(0, np.uint8), wanted, wanted) for wanted in points]

    def clip(part: list) -> torch.Tensor:  # type: ignore[type-arg]
        part = part + [part[-1]] * (16 - len(part))
        return torch.tensor([float(p[1][0, 0]) for p in part])[:, None, None, None]

    out = [float(x) for x in overlapped(frames, clip, 16, 4)]
    assert out == pytest.approx(list(range(count)))


def test_sampling_is_repeatable_and_follows_landmarks() -> None:
    config = small()
    torch.manual_seed(0)
    sampler = VideoSampler(VideoModel(config))
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)
    face = rng.uniform(60, 120, (68, 2)).astype(np.float32)
    other = face + np.float32(2)
    first = list(sampler([(crop, face, face)] * 20, Identity(crop, face), seed=3))
    again = list(sampler([(crop, face, face)] * 20, Identity(crop, face), seed=3))
    moved = list(sampler([(crop, other, face)] * 20, Identity(crop, face), seed=3))
    assert len(first) == 20
    assert first[0].shape == (3, 72, 128)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert max(float(frame.abs().max()) for frame in first) <= 1
    assert any(not torch.equal(a, b) for a, b in zip(first, moved, strict=True))


def test_a_dark_face_is_made_as_a_bright_one() -> None:
    torch.manual_seed(0)
    sampler = VideoSampler(VideoModel(small()))
    rng = np.random.default_rng(0)
    crop = rng.integers(100, 156, (128, 128, 3)).astype(np.float32)
    face = rng.uniform(60, 120, (68, 2)).astype(np.float32)

    def made(light: float, identity_light: float = 1.0) -> torch.Tensor:
        """Of all light that there is, in [0, 1]; lit as in daylight."""
        dark, identity = ((crop * factor).round().astype(np.uint8) for factor in (light, identity_light))
        (region,) = sampler([(dark, face, face)], Identity(identity, face))
        return (region + 1) / 2 / light

    usual = made(1.0)
    for light in (0.3, 0.1):
        assert (made(light) - usual).abs().mean() < 0.1 * usual.mean()  # as light as the frame, not the face
        assert (made(light, light) - usual).abs().mean() < 0.1 * usual.mean()


def test_light_that_hardly_differs_is_left_alone() -> None:
    crops = np.stack([np.full((128, 128, 3), value, np.uint8) for value in (110, 128, 150, 64, 12)])
    gain = gains(crops, 128 / 255).flatten()
    assert gain[:3].tolist() == [1, 1, 1]
    assert gain[3:].tolist() == pytest.approx([2 / SAME, MOST / SAME], rel=1e-3)
    pixels = torch.rand(1, 3, 4, 4) * 2 - 1
    assert torch.equal(lit(pixels, torch.ones(1)), pixels)
    assert torch.allclose(lit(lit(pixels, torch.tensor(0.25)), torch.tensor(4.0)), pixels, atol=1e-6)


def test_what_a_model_misses_is_given_back() -> None:
    """An untrained model misses nearly all of a still picture: with texture it gives the picture."""
    config = small()
    config = replace(config, mtov=replace(config.mtov, texture=True))
    torch.manual_seed(0)
    model = VideoModel(config)
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(100, 150, (1, 3, 16, 16)))
    crop = torch.nn.functional.interpolate(coarse, size=(128, 128), mode="bicubic")[0]
    crop = crop.permute(1, 2, 0).round().byte().numpy()
    angle = np.linspace(0, 2 * np.pi, 68)
    face = np.stack([64 + 30 * np.cos(angle), 95 + 20 * np.sin(angle)], axis=-1).astype(np.float32)
    face[60:68] = np.stack([np.linspace(50, 78, 8), np.full(8, 96)], axis=-1)  # lips that are shut
    real = torch.from_numpy(crop[config.crop.region_top :]).permute(2, 0, 1) / 127.5 - 1

    def error(on: bool, stretch: int = 20) -> float:
        other = replace(config, mtov=replace(config.mtov, texture=on))
        model.config = other
        made = list(VideoSampler(model)([(crop, face, face)] * stretch, Identity(crop, face), seed=3))
        return max(float((frame - real).abs().mean()) for frame in made)

    assert error(True) < 0.5 * error(False)
    assert error(True, 3) < 0.5 * error(False, 3)


def test_missed_skin_goes_where_the_face_goes() -> None:
    grid = np.stack(np.meshgrid(np.linspace(8, 120, 17), np.linspace(8, 64, 4)), axis=-1).reshape(68, 2)
    face = torch.from_numpy(grid).float()[None]
    mole = torch.zeros(16, 3, 72, 128)
    mole[:, :, 30:33, 40:43] = 0.2
    texture = Texture(face)
    still = torch.zeros(1, 3, 72, 128)
    assert torch.equal(texture.put_back(still, face), still)
    texture.learn(torch.zeros_like(mole), mole, face.expand(16, -1, -1))
    assert float(texture.put_back(still, face)[0, :, 31, 41].mean()) == pytest.approx(0.2, abs=0.02)
    there = texture.put_back(still, face + torch.tensor([5.0, 3.0]))[0, 0]
    row, column = divmod(int(there.argmax()), 128)
    assert abs(row - 34) <= 1
    assert abs(column - 46) <= 1
    hand = mole.clone()
    hand[:5] = 1.0  # in front of the face on a few frames
    texture = Texture(face)
    texture.learn(torch.zeros_like(mole), hand, face.expand(16, -1, -1))
    assert float(texture.put_back(still, face).max()) <= 0.2 + 1e-4


def test_what_is_missed_follows_the_shape_of_the_lips_by_ridge_regression() -> None:
    """Against ridge regression with an intercept, written with the frames themselves and not with sums."""
    rng = np.random.default_rng(0)
    mean = rng.uniform(20, 60, (1, 68, 2))
    points = torch.from_numpy(mean + rng.normal(0, 0.01, (32, 68, 2))).float()
    points[:, 65:68, 1] += torch.linspace(0, 2, 32)[:, None]  # lips that open
    face = points[:1]
    shape = lip_shape(points, 128)
    assert shape[-1, 0] - shape[0, 0] == pytest.approx(1.0, abs=0.05)
    missing = torch.zeros(32, 3, 72, 128) + 0.1 * (shape[:, 0] - shape[:, 0].mean())[:, None, None, None]
    texture = Texture(face, memory=float("inf"))
    for part in (slice(0, 20), slice(20, 32)):
        texture.learn(torch.zeros_like(missing[part]), missing[part], points[part])
    made = texture.put_back(torch.zeros(32, 3, 72, 128), points)[:, 0, 5, 5].numpy()

    x, y = shape.double().numpy(), missing[:, 0, 0, 0].double().numpy()
    x, y = x - x.mean(0), y - y.mean()
    weights = np.linalg.solve(x.T @ x + STIFFNESS * np.eye(6), x.T @ y)
    np.testing.assert_allclose(made, x @ weights, atol=2e-4)
    assert made[-1] > 0.01 > -0.01 > made[0]
    # What is known of the person is where the regression starts: true slopes stay as they are.
    true = torch.zeros(6, 3, 72, 128)
    true[0] = 0.1
    knowing = Texture(face, known=(true, face), memory=float("inf"))
    knowing.learn(torch.zeros_like(missing), missing, points)
    made = knowing.put_back(torch.zeros(32, 3, 72, 128), points)[:, 0, 5, 5].numpy()
    np.testing.assert_allclose(made[1:-1], y[1:-1], atol=2e-3)
    # Shapes beyond all that was seen are not followed for ever.
    far = points[-1:].clone()
    far[:, 65:68, 1] += 50
    reach = 2 * x[:, 0].std()
    farthest = texture.put_back(torch.zeros(1, 3, 72, 128), far)[0, 0, 5, 5]
    assert float(farthest) <= abs(weights) @ (2 * x.std(axis=0)) + 1e-4
    assert float(farthest) > weights[0] * reach * 0.5


def test_texture_forgets_what_was_long_ago() -> None:
    face = torch.from_numpy(np.random.default_rng(0).uniform(20, 60, (1, 68, 2))).float()
    texture, frames = Texture(face), face.expand(16, -1, -1)
    nothing, light = torch.zeros(16, 3, 72, 128), torch.full((16, 3, 72, 128), 0.1)
    texture.learn(nothing, nothing, frames)
    for _ in range(20):
        texture.learn(nothing, light, frames)
    assert float(texture.put_back(nothing[:1], face).min()) > 0.099


def test_teeth_come_from_an_open_mouth_and_stay_between_the_lips() -> None:
    face = torch.zeros(1, 68, 2)
    face[0, :, 0], face[0, :, 1] = torch.linspace(20, 108, 68), 10.0

    def lips(half: float, x: float, y: float) -> torch.Tensor:
        across = torch.tensor([-16.0, -10, 0, 10, 16, 10, 0, -10])
        points = face.clone()
        points[0, 60:68] = torch.stack(
            [across + x, y + half * torch.tensor([0, -1, -1, -1, 0, 1, 1, 1.0])], -1
        )
        return points

    open_, shut, wanted = lips(8, 64, 40), lips(0, 64, 40), lips(6, 66, 42)
    mouth = torch.full((1, 3, 72, 128), -0.5)
    mouth[:, :, 34:38] = 0.9  # teeth
    made = torch.zeros(2, 3, 72, 128)
    both = with_teeth(made, torch.cat([wanted, shut]), mouth, open_, 1.0)
    inside = mouth_interior(wanted, 72, 128)[0, 0] > 0.9
    assert both[0, 0][inside].max() > 0.8
    assert both[0, 0][inside].min() < -0.3
    assert not both[0, 0][mouth_interior(wanted, 72, 128)[0, 0] == 0].any()
    assert not both[1].any()
    assert torch.equal(with_teeth(made, torch.cat([wanted, shut]), mouth, open_, 0.0), made)
    assert not with_teeth(made, torch.cat([wanted, shut]), mouth, shut, 1.0).any()
    # Of two mouths the one that is more like what is wanted.
    dark, round_ = torch.full_like(mouth, -0.9), lips(6, 64, 40)
    round_[0, 60:68, 0] = 64 + (round_[0, 60:68, 0] - 64) / 2
    mouths, shapes = torch.cat([mouth, dark]), torch.cat([open_, round_])
    both = with_teeth(made, torch.cat([open_, round_]), mouths, shapes, 1.0)
    assert both[0].max() > 0.8
    assert both[1].max() == 0
    assert both[1].min() < -0.8


def test_psnr_against_its_definition() -> None:
    a, b = torch.zeros(1, 3, 2, 4, 4), torch.full((1, 3, 2, 4, 4), 0.2)
    assert float(psnr(a, b)) == pytest.approx(10 * np.log10(4 / 0.04), abs=1e-4)
    weight = torch.zeros(1, 1, 2, 4, 4)
    weight[..., 0, 0] = 1
    b[..., 1:, :] = 1
    assert float(psnr(a, b, weight)) == pytest.approx(10 * np.log10(4 / 0.04), abs=1e-4)


def test_default_autoencoder_is_the_papers() -> None:
    assert AutoencoderConfig() == load("paper").autoencoder
