"""The loop, the batches, and that the video tasks learn."""

from __future__ import annotations

import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moditalker.config import AugmentationConfig, Config, TrainingConfig, load
from moditalker.data.clips import VideoClip, VideoClips, augment_clip
from moditalker.data.parts import JUDGED, Data, judged
from moditalker.data.shards import Sample
from moditalker.errors import UserError
from moditalker.training import loop
from moditalker.training.loop import fit, learning_rate
from moditalker.training.processes import Accelerated, Processes
from moditalker.training.run import record, trained_weights
from moditalker.training.tasks.adaptation import AdaptationTask, adapt, judge, known_texture, split
from moditalker.training.tasks.autoencoder import AutoencoderTask
from moditalker.training.tasks.distillation import DistillationTask
from moditalker.training.tasks.mtov import MToVTask
from moditalker.video.model import VideoModel


class Line:
    """Fits y = 3 x by two noisy numbers a step; dropout makes chance part of the step."""

    name = "line"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def batch(self, rng: np.random.Generator) -> Tensor:
        return torch.from_numpy(rng.normal(size=(4, 1))).float()

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        noise = torch.randn(batch.shape, generator=generator)
        return (self.model(batch) - 3 * batch - 0.01 * noise).square().mean(), {}

    def validate(self) -> dict[str, float]:
        x = torch.linspace(-1, 1, 9)[:, None]
        return {"error": float((self.model(x) - 3 * x).square().mean())}

    def preview(self) -> None:
        return None


class Ahead(Processes):
    """Where batches are made ahead, as on a GPU."""

    workers = 3


def quiet(_: str) -> None:
    pass


def test_ten_steps_are_five_and_five_resumed(tmp_path: Path) -> None:
    config = TrainingConfig(steps=10, learning_rate=0.01, warmup=1, validate_every=5, ema=0.9)
    whole, halves = Line(), Line()
    fit(whole, config, tmp_path / "whole", quiet)
    fit(halves, replace(config, steps=5), tmp_path / "halves", quiet)
    halves = Line()
    fit(halves, config, tmp_path / "halves", quiet)
    for a, b in zip(whole.model.parameters(), halves.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_that_is_over_has_figures(tmp_path: Path) -> None:
    config = TrainingConfig(steps=4, learning_rate=0.01, validate_every=4)
    figures = fit(Line(), config, tmp_path, quiet)
    assert fit(Line(), config, tmp_path, quiet) == figures != {}


def test_the_optimiser_does_what_the_configuration_says_resumed_too(tmp_path: Path) -> None:
    config = TrainingConfig(steps=1, learning_rate=0.01, weight_decay=0.01)
    fit(Line(), config, tmp_path, quiet)
    fit(Line(), replace(config, steps=2, weight_decay=0.5), tmp_path, quiet)
    optimizer = torch.load(tmp_path / "last.pt", weights_only=True)["optimizer"]
    assert optimizer["param_groups"][0]["weight_decay"] == 0.5


class Terminated(Line):
    """Is sent a signal in its third step, soon after a validation."""

    signal = signal.SIGTERM

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 3:
            os.kill(os.getpid(), self.signal)
        return super().loss(batch, generator)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_says_so(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminated, "signal", number)
    config = TrainingConfig(steps=9, learning_rate=0.01, warmup=1, validate_every=2)
    assert fit(Terminated(), config, tmp_path, quiet) is None
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 3
    assert fit(Line(), config, tmp_path, quiet)
    assert fit(Terminated(), replace(config, steps=3), tmp_path / "over", quiet)  # nothing was left to do


def test_all_processes_stop_at_the_step_at_which_one_is_told_to(tmp_path: Path) -> None:
    class Two(Processes):
        asked = 0

        def any(self, flag: bool) -> bool:
            assert not flag
            self.asked += 1
            return self.asked > 4  # the other one was told in the fourth step

    assert fit(Line(), TrainingConfig(steps=9, learning_rate=0.01), tmp_path, quiet, Two()) is None
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 4


def test_what_no_process_has_a_gradient_for_stays_as_it_is() -> None:
    class One(Accelerated):
        def __init__(self) -> None:
            self.scale = 2.0

    reached, other = (nn.Parameter(torch.ones(2)) for _ in range(2))
    reached.grad = torch.full((2,), 3.0)
    One().sum_gradients([reached, other])
    assert reached.grad.tolist() == [1.5, 1.5]
    assert other.grad is None
    assert One().any(True)
    assert not One().any(False)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    config = TrainingConfig(steps=2, learning_rate=0.01)
    fit(Line(), config, tmp_path, quiet)
    whole = (tmp_path / "last.pt").read_bytes()
    other = Line()
    other.model = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1))
    with pytest.raises(UserError, match="another part or size"):
        fit(other, config, tmp_path, quiet)
    for content in (b"", b"nothing", whole[: len(whole) // 2]):
        (tmp_path / "last.pt").write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            fit(Line(), config, tmp_path, quiet)
        with pytest.raises(UserError, match="no whole checkpoint"):
            trained_weights(tmp_path)


def test_a_full_disk_leaves_the_checkpoint_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(steps=2, learning_rate=0.01)
    fit(Line(), config, tmp_path, quiet)
    before = (tmp_path / "last.pt").read_bytes()

    def full(_: object, file: IO[bytes]) -> None:
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop.torch, "save", full)
    with pytest.raises(UserError, match="disk may be full"):
        fit(Line(), replace(config, steps=4), tmp_path, quiet)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_a_run_is_gone_on_with_as_it_was_begun(tmp_path: Path) -> None:
    config, data = load("tiny"), Data([], [])
    record(tmp_path, "mtov", config, data)
    (tmp_path / "training.json").write_text('{"task": "mtov"}')
    (tmp_path / "last.pt").touch()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    decayed = load("tiny", overrides=["mtov_training.weight_decay=0.5", "atom.heads=2"])
    foreign = Data([], [Sample("a", {"speaker": "s", "video": "s/a"}, None, {})])
    with pytest.raises(
        UserError, match=r"atom\.heads = 4 \(now 2\), mtov_training\.weight_decay = 0\.01 \(now 0\.5\)"
    ):
        record(tmp_path, "mtov", decayed, data)
    with pytest.raises(UserError, match="other data"):
        record(tmp_path, "mtov", config, foreign)
    with pytest.raises(UserError, match=r"task = mtov \(now distillation\)"):
        record(tmp_path, "distillation", config, data)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    record(tmp_path, "mtov", load("tiny", overrides=["mtov_training.steps=9"]), data)
    assert load(file=tmp_path / "config.yaml").mtov_training.steps == 9


def test_batches_made_ahead_are_those_made_when_asked_for(tmp_path: Path) -> None:
    config = TrainingConfig(steps=10, accumulate=2, learning_rate=0.01, warmup=1, validate_every=5, ema=0.9)
    one, other = Line(), Line()
    fit(one, config, tmp_path / "one", quiet)
    fit(other, replace(config, steps=5), tmp_path / "other", quiet, Ahead())
    other = Line()
    fit(other, config, tmp_path / "other", quiet, Ahead())
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_error_in_a_batch_made_ahead_ends_the_run(tmp_path: Path) -> None:
    class Broken(Line):
        def batch(self, rng: np.random.Generator) -> Tensor:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        fit(Broken(), TrainingConfig(steps=10), tmp_path, quiet, Ahead())


def test_loop_learns_and_leaves_a_log(tmp_path: Path) -> None:
    config = TrainingConfig(
        steps=400, learning_rate=0.02, schedule="cosine", warmup=10, validate_every=100, ema=0.95
    )
    lines: list[str] = []
    figures = fit(Line(), config, tmp_path, lines.append)
    assert figures["error"] < 0.1
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 400
    assert len(lines) == 4
    assert not list(tmp_path.glob("*.part"))


def test_schedules() -> None:
    config = TrainingConfig(steps=1000, learning_rate=1.0, warmup=100, schedule="cosine")
    assert learning_rate(config, 0) == pytest.approx(0.01)
    assert learning_rate(config, 1000) == pytest.approx(0.02)
    assert learning_rate(config, 300, done=0.5) == learning_rate(config, 500)
    assert learning_rate(config, 600, done=0.5) == learning_rate(config, 600)
    assert learning_rate(replace(config, schedule="constant"), 900, done=1.0) == 1.0


def test_seconds_end_a_run_and_its_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which a step takes a second."""
    task, now, rates = Line(), 0.0, []
    loss = task.loss

    def slow(*given):
        nonlocal now
        now += 1.0
        return loss(*given)

    def rate(*given):
        rates.append(learning_rate(*given))
        return rates[-1]

    monkeypatch.setattr(task, "loss", slow)
    monkeypatch.setattr(loop, "learning_rate", rate)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    config = TrainingConfig(steps=10_000, learning_rate=1.0, schedule="cosine", warmup=0, validate_every=7)
    lines: list[str] = []
    assert fit(task, config, tmp_path, lines.append, seconds=10.0)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 10
    assert len(lines) == 2  # steps 7 and 10
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[5]) == (pytest.approx(1.0), pytest.approx(0.51))


def clips(config: Config, count: int = 2) -> VideoClips:
    """Moving gradients with landmarks on them."""
    made = []
    size = config.crop.size
    y, x = np.mgrid[:size, :size] * 128 / size
    for i in range(count):
        phase = np.arange(20)[:, None, None]
        grey = 127 + 60 * np.sin((x + y) / 20 + phase / 3 + i) + 40 * np.cos(y / 9 - i)
        crops = np.repeat(grey[..., None], 3, axis=-1).clip(0, 255).astype(np.uint8)
        angle = np.linspace(0, 2 * np.pi, 68)
        points = np.stack([64 + 30 * np.cos(angle), 90 + 20 * np.sin(angle)], axis=-1) * size / 128
        made.append(
            VideoClip(f"p{i}_c", f"p{i}", crops, np.repeat(points[None], 20, axis=0).astype(np.float32))
        )
    return VideoClips(made, config.crop, config.autoencoder, config.augmentation)


def small() -> Config:
    config = load("tiny")
    training = replace(config.mtov_training, steps=6, batch=1, warmup=1, validate_every=6)
    return replace(
        config,
        crop=replace(config.crop, size=64, region_top=32, pose_rows=28),
        autoencoder=replace(
            config.autoencoder,
            height=32,
            width=64,
            dim=32,
            head_dim=8,
            encoder_layers=1,
            decoder_layers=1,
        ),
        mtov=replace(config.mtov, channels=32, blocks=1),
        autoencoder_training=training,
        mtov_training=training,
    )


def test_video_tasks_run_one_after_the_other(tmp_path: Path) -> None:
    config = small()
    data = clips(config)
    first = AutoencoderTask(config, data, data)
    figures = fit(first, config.autoencoder_training, tmp_path / "autoencoder", quiet)
    assert {"p0", "p0_still", "p0_copy"} <= figures.keys()
    task = MToVTask(config, data, data, tmp_path / "autoencoder")
    frozen = [p.clone() for p in task.model.autoencoder.encoder.parameters()]
    figures = fit(task, config.mtov_training, tmp_path / "mtov", quiet)
    assert {"p0", "p0_still", "p0_true"} <= figures.keys()
    assert all(np.isfinite(value) for value in figures.values())
    assert all(
        torch.equal(a, b) for a, b in zip(frozen, task.model.autoencoder.encoder.parameters(), strict=True)
    )


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    """A rate of learning that overshoots: the last validation is not the best one, resumed or not."""
    config = TrainingConfig(
        steps=60, learning_rate=0.05, warmup=1, validate_every=5, ema=0.0, weight_decay=0.0, keep="best"
    )

    class Overshooting(Line):
        def score(self, figures: dict[str, float]) -> float:
            return -abs(figures["error"] - 1.0)  # best on the way

    whole, halves = Overshooting(), Overshooting()
    figures = fit(whole, config, tmp_path / "whole", quiet)
    errors = [
        record["error"]
        for record in map(json.loads, (tmp_path / "whole" / "log.jsonl").read_text().splitlines())
        if "error" in record
    ]
    assert figures["error"] == min(errors, key=lambda error: abs(error - 1.0)) != errors[-1]
    with torch.no_grad():
        assert whole.validate()["error"] == pytest.approx(figures["error"])
    kept = trained_weights(tmp_path / "whole")
    assert all(torch.equal(kept[name], value) for name, value in whole.model.state_dict().items())
    fit(halves, replace(config, steps=35), tmp_path / "halves", quiet)
    halves = Overshooting()
    assert fit(halves, config, tmp_path / "halves", quiet) == figures


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    config = small()
    data = clips(config)
    smaller = replace(config, autoencoder=replace(config.autoencoder, dim=16))
    fit(AutoencoderTask(smaller, data, data), replace(config.autoencoder_training, steps=1), tmp_path, quiet)
    for runs in ((tmp_path, None), (None, tmp_path)):
        with pytest.raises(UserError, match="do not fit this network"):
            MToVTask(config, data, data, *runs)
    with pytest.raises(UserError, match="do not fit this network"):
        DistillationTask(config, data, data, {})


def test_few_of_many_speakers_judge() -> None:
    names = [f"s{i}" for i in range(100)]
    assert len(judged(names)) == JUDGED
    assert judged(names) == judged(reversed(names)) != set(names[:JUDGED])
    assert judged(["a", "b\udcff"]) == {"a", "b\udcff"}


@pytest.mark.slow
def test_distillation_moves_the_unet_alone_towards_its_teacher(tmp_path: Path) -> None:
    config = small()
    config = replace(config, distillation_training=replace(config.mtov_training, steps=2))
    data = clips(config)
    torch.manual_seed(0)
    teacher = VideoModel(config)
    for parameter in teacher.unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)  # so that its second step changes something
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    task = DistillationTask(config, data, data, state)
    assert task.config.mtov_diffusion.sampling_steps == 1
    batch = task.batch(np.random.default_rng(9))
    optimizer = torch.optim.Adam(task.model.unet.parameters(), lr=2e-3)
    distances = []
    for _ in range(40):
        loss, terms = task.loss(batch, torch.Generator().manual_seed(9))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distances.append(terms["planes"])
    assert distances[-1] < 0.5 * distances[0]
    fit(task, config.distillation_training, tmp_path, quiet)
    changed = {name for name, value in task.model.state_dict().items() if not torch.equal(value, state[name])}
    assert changed
    assert all(name.startswith("unet.") for name in changed)


def test_each_video_task_makes_batches_of_its_own_size() -> None:
    config = small()
    sizes = {"mtov": 1, "adaptation": 2, "distillation": 3}
    config = replace(
        config,
        **{f"{name}_training": replace(config.mtov_training, batch=size) for name, size in sizes.items()},
    )
    data, state = clips(config), VideoModel(config).state_dict()
    tasks = {
        "mtov": MToVTask(config, data, data),
        "adaptation": AdaptationTask(config, data, []),
        "distillation": DistillationTask(config, data, data, state),
    }
    made = {name: len(task.batch(np.random.default_rng(0)).video) for name, task in tasks.items()}
    assert made == sizes


def test_conditions_that_are_not_named_are_not_seen() -> None:
    config = small()
    config = replace(
        config,
        autoencoder=replace(config.autoencoder, decoder="pixels", residual=False),
        mtov=replace(config.mtov, conditions=("identity", "audio")),
        speech=replace(config.speech, width=5),
    )
    data = clips(config)
    for number, clip in enumerate(data.clips):
        speech = np.random.default_rng(number).normal(size=(40, 5)).astype(np.float16)
        data.clips[number] = replace(clip, speech=speech)
    task = MToVTask(config, data, data)
    for parameter in task.model.unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    batch = task.batch(np.random.default_rng(0))
    one = task.made(batch)
    assert torch.equal(one, task.made(replace(batch, pose=-batch.pose, landmarks=batch.landmarks + 3)))
    assert not torch.equal(one, task.made(replace(batch, speech=-batch.speech)))
    assert not torch.equal(one, task.made(replace(batch, identity=-batch.identity)))


def test_planes_of_the_true_clip_are_made_only_for_who_looks_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small()
    config = replace(config, mtov_loss=replace(config.mtov_loss, planes=0.0, last_step=1.0))
    data = clips(config)
    task = MToVTask(config, data, data)
    batch, chance = task.batch(np.random.default_rng(0)), torch.Generator().manual_seed(0)

    def refuse(*_: Tensor) -> Tensor:
        raise LookupError

    monkeypatch.setattr(task.model.autoencoder, "encode", refuse)
    loss, terms = task.loss(batch, chance)
    assert loss.isfinite()
    assert list(terms) == ["pixels"]
    for looking in ({"planes": 0.1}, {"last_step": 0.5}):
        task.config = replace(config, mtov_loss=replace(config.mtov_loss, **looking))
        with pytest.raises(LookupError):
            task.loss(batch, chance)


def test_a_person_is_learnt_and_judged_on_held_out_frames(tmp_path: Path) -> None:
    config = small()
    config = replace(
        config,
        mtov=replace(config.mtov, texture=False),
        adaptation_training=replace(config.mtov_training, steps=12, learning_rate=2e-3),
    )
    person = clips(config, 6).clips
    learnt, ends = split(person, 16)
    assert sum(len(clip.crops) for clip in [*learnt, *ends]) == 120
    assert 16 <= sum(len(end.crops) for end in ends) <= 40
    torch.manual_seed(0)
    state = VideoModel(config).state_dict()
    adapted = adapt(config, state, person, tmp_path, minutes=5.0, log=quiet)
    assert adapted.after > adapted.before
    assert adapted.config == config
    with pytest.raises(UserError, match=r"^0.001 minutes are too few: .* give \d+ or more$"):
        adapt(config, state, person, tmp_path / "hasty", minutes=0.001, log=quiet)
    kept = adapt(
        replace(
            config, adaptation_training=replace(config.adaptation_training, learning_rate=1e-12, steps=1)
        ),
        adapted.state,
        person,
        tmp_path / "again",
        minutes=5.0,
        log=quiet,
    )
    assert kept.after >= kept.before
    textured = replace(config, mtov=replace(config.mtov, texture=True))
    better = adapt(textured, adapted.state, person, tmp_path / "textured", minutes=5.0, log=quiet)
    assert better.after >= better.before
    VideoModel(better.config).load_state_dict(better.state)
    short = [
        replace(clip, crops=clip.crops[:18], landmarks=clip.landmarks[:18]) for clip in clips(config, 5).clips
    ]
    learnt, ends = split(short, 16)  # what is left of a piece may be too short to learn from
    assert [len(end.crops) for end in ends] == [18]
    assert [len(clip.crops) for clip in learnt] == [18] * 4
    with pytest.raises(UserError, match="75 are needed"):
        split(person[:3], 16)


def test_what_a_person_looks_like_follows_their_lips() -> None:
    """A cheek that lights up as the mouth opens: another clip of the person gets that from what is known."""
    config = small()
    config = replace(config, mtov=replace(config.mtov, texture=True))
    torch.manual_seed(0)
    model = VideoModel(config)
    rng = np.random.default_rng(0)
    face = np.stack([rng.uniform(8, 56, 68), rng.uniform(36, 60, 68)], axis=-1).astype(np.float32)

    def clip(opening: np.ndarray) -> VideoClip:
        points = np.repeat(face[None], len(opening), axis=0)
        points[:, 65:68, 1] = points[:, 61:64, 1].mean(axis=1, keepdims=True) + opening[:, None]
        crops = np.full((len(opening), 64, 64, 3), 100, np.uint8)
        crops += (6 * opening[:, None, None, None]).astype(np.uint8)
        return VideoClip("clip", "person", crops, points)

    learnt = [clip(np.linspace(0, 4, 40)), clip(np.linspace(4, 0, 25))]
    quiet_then_open = clip(np.concatenate([np.linspace(0, 0.6, 20), np.linspace(2, 4, 20)]))
    slopes, landmarks = known_texture(model, learnt)
    knowing = VideoModel(replace(config, mtov=replace(config.mtov, known_texture=True)))
    state = model.state_dict() | {"texture_slopes": slopes, "texture_landmarks": landmarks}
    knowing.load_state_dict(state)
    assert judge(knowing, [quiet_then_open]) > judge(model, [quiet_then_open]) + 0.5


def test_batches_are_a_function_of_the_seed() -> None:
    config = small()
    data = clips(config)
    a, b, c = (data.batch(2, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.video, b.video)
    assert torch.equal(a.landmarks, b.landmarks)
    assert not torch.equal(a.video, c.video)
    assert a.video.shape == (2, 3, 16, 32, 64)
    assert a.pose.shape == a.video.shape


def test_augmentation_moves_landmarks_with_the_picture() -> None:
    """White squares at landmarks are still under them afterwards."""
    rng = np.random.default_rng(5)
    points = torch.from_numpy(rng.uniform(40, 88, size=(1, 68, 2))).float().round()
    crops = torch.full((1, 3, 128, 128), -1.0)
    for x, y in points[0].int().tolist():
        crops[0, :, y - 1 : y + 2, x - 1 : x + 2] = 1
    for seed in range(4):
        moved, where = augment_clip(crops, points, np.random.default_rng(seed), AugmentationConfig())
        x, y = where[0].round().int().unbind(-1)
        inside = (x >= 0) & (x < 128) & (y >= 0) & (y < 128)
        assert moved[0, 0, y[inside], x[inside]].mean() > moved[0, 0].mean() + 0.5


def test_augmentation_can_be_left_out() -> None:
    crops = torch.rand(2, 3, 128, 128) * 2 - 1
    points = torch.rand(2, 68, 2) * 128
    how = AugmentationConfig(flip=0, colour=0, geometry=0)
    same, where = augment_clip(crops, points, np.random.default_rng(0), how)
    assert torch.allclose(same, crops, atol=1e-4)
    assert torch.allclose(where, points, atol=1e-3)


def test_the_identity_frame_may_be_of_another_clip_of_the_person() -> None:
    config = small()
    two = clips(config, 2).clips
    whose = [replace(two[0], speaker="a"), replace(two[1], crops=255 - two[1].crops, speaker="a")]
    other = replace(two[0], speaker="b", crops=np.zeros_like(two[0].crops))

    def own(other_clip: float) -> float:
        """Share of x_id that is a frame of the clip itself."""
        how = AugmentationConfig(flip=0, colour=0, geometry=0, other_clip=other_clip)
        group = VideoClips([*whose, other], config.crop, config.autoencoder, how)
        batch = group.batch(64, np.random.default_rng(0))
        assert (
            (batch.video[:, :, 0] == -1).flatten(1).all(1) == (batch.identity == -1).flatten(1).all(1)
        ).all()
        alike = (batch.video.mean((1, 2, 3, 4)) > 0) == (batch.identity.mean((1, 2, 3)) > 0)
        return float(alike.float().mean())

    assert own(0.0) == 1.0
    assert 0.6 < own(1.0) < 0.9  # "b" has only one clip
