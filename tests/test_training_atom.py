"""AToM's training: recordings keep sound and motion together, one clip is learnt, silence is shut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moditalker.config import RecordingsConfig, SpeechConfig, load
from moditalker.data import recordings_folder
from moditalker.data.parts import Data
from moditalker.data.recordings import (
    MotionClip,
    Recording,
    chances,
    change_speed,
    closed_pause,
    count_recordings,
    faces,
    fill_gaps,
    make_recordings,
    piece,
    read_motion_clip,
    rest_mouth,
)
from moditalker.data.recordings_folder import RecordingsFolder, load_recordings, save_recordings
from moditalker.data.shards import add_sample, open_dataset, shard_writer
from moditalker.errors import UserError
from moditalker.features.speech.encoders import FRAME, SAMPLE_RATE, SpeechEncoder
from moditalker.geometry.points import lip_opening
from moditalker.training.build import build, cross_fitted
from moditalker.training.loop import fit
from moditalker.training.processes import Processes
from moditalker.training.tasks import atom as training
from moditalker.training.tasks.atom import AtomTask, EstimateTask


class Loudness(SpeechEncoder):
    """Loudness of 20 ms and of what is around them: enough to see whether sound and motion stay together."""

    width = 4
    margin = 0

    def __init__(self) -> None:
        super().__init__(SpeechConfig())

    def encode_window(self, samples: torch.Tensor) -> torch.Tensor:
        level = samples.unflatten(0, (-1, 320)).square().mean(1).add(1e-8).log10()[:, None] / 4
        return torch.cat([level, level.roll(1, 0), level.roll(-1, 0), level**2], dim=1)


def clip(name: str = "a_1", seed: int = 0, frames: int = 75) -> MotionClip:
    """A mouth that opens with the sound's loudness."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.random(frames // 5) * (rng.random(frames // 5) < 0.6), 5)
    loudness = np.convolve(loudness, np.ones(3) / 3, "same")
    face = np.random.default_rng(7).normal(0, 0.3, size=(68, 3))
    face[36:48, 1] = 0.5
    face[36:42, 0], face[42:48, 0] = -0.5, 0.5
    face[60:68, :2] = face[[48] * 8, :2]
    landmarks = np.repeat(face[None], frames, axis=0)
    landmarks[:, 65:68, 1] -= 0.3 * loudness[:, None]
    noise = rng.normal(size=frames * FRAME)
    sound = 0.3 * noise * np.repeat(loudness, FRAME)
    landmarks = landmarks.astype(np.float32)
    return MotionClip(name, name.split("_")[0], landmarks, sound.astype(np.float32), landmarks[::9])


PLAIN = RecordingsConfig(silent=0.0, voice=0.0, channel=0.0, behind=0.0)


def test_recordings_keep_sound_and_motion_together() -> None:
    clips = [clip(f"{speaker}_{k}", seed=k) for k, speaker in enumerate("aab")]
    recordings = make_recordings(clips, Loudness(), PLAIN, 3, range(6))
    for recording in recordings:
        assert recording.speech.shape == (2 * len(recording.landmarks), 4)
        heard = recording.speech[:, 0].astype(np.float32).reshape(-1, 2).mean(1)
        assert np.corrcoef(heard, lip_opening(recording.landmarks))[0, 1] > 0.5
    again = make_recordings(clips, Loudness(), PLAIN, 3, range(3, 6))  # each has chance of its own
    for one, two in zip(recordings[3:], again, strict=True):
        np.testing.assert_array_equal(one.speech, two.speech)
    assert {r.speaker for r in recordings} == {"a", "b"}


def test_silent_recordings_are_shut() -> None:
    for recording in make_recordings([clip()], Loudness(), RecordingsConfig(silent=1.0), 0, range(4)):
        assert lip_opening(recording.landmarks).max() < 0.02


def test_the_data_deserves_so_many_recordings() -> None:
    clips = [clip(frames=75)] * 10  # 30 s
    assert count_recordings(clips, RecordingsConfig(repeats=10, seconds=10)) == 30
    assert count_recordings(clips, RecordingsConfig(repeats=10, seconds=10, most=7)) == 7


def test_every_person_is_drawn_alike() -> None:
    clips = [clip("many_1", frames=750), clip("few_1", frames=75)]
    alike = replace(PLAIN, imbalance=0.0)
    drawn = [r.speaker for r in make_recordings(clips, Loudness(), alike, 0, range(40))]
    assert 10 < drawn.count("few") < 30


def test_pieces_are_as_long_as_asked_and_keep_sound_and_motion_together() -> None:
    long, rng = clip(frames=300), np.random.default_rng(0)
    for _ in range(5):
        track, sound = piece(long, 100, rng)
        assert len(track) == 100
        level = np.abs(sound).reshape(-1, FRAME).max(1)
        assert np.corrcoef(level, lip_opening(track))[0, 1] > 0.5
    assert 50 < len(piece(clip(frames=75), 100, rng)[0]) <= 75


def test_pauses_reach_rest_and_join_smoothly() -> None:
    rest, before, after = np.zeros((68, 3)), np.full((68, 3), 1.0), np.full((68, 3), 2.0)
    pause = closed_pause(30, before, after, rest)[:, 0, 0]
    np.testing.assert_allclose(pause[6:24], 0, atol=1e-6)
    assert np.abs(np.diff([1.0, *pause, 2.0])).max() < 0.55


def test_speed_changes_both() -> None:
    whole = clip()
    track, sound = change_speed(whole.landmarks, whole.waveform, 1.25)
    assert len(track) == 60
    assert len(sound) == 60 * FRAME


def test_rest_is_shut_and_faces_are_sorted() -> None:
    clips = [clip(seed=1), clip(seed=2)]
    assert lip_opening(rest_mouth(clips)) < 0.02
    every, shut = faces(clips)
    assert len(shut) < len(every)
    assert lip_opening(shut).max() <= lip_opening(every).max()


def test_gaps_are_filled() -> None:
    landmarks = clip().landmarks.copy()
    landmarks[10:13] = np.nan
    filled = fill_gaps(landmarks)
    assert np.isfinite(filled).all()
    np.testing.assert_allclose(filled[11], (filled[9] + filled[13]) / 2, atol=1e-5)


def test_recordings_are_read_back(tmp_path: Path) -> None:
    made = make_recordings([clip("s1_x")], Loudness(), PLAIN, 0, range(2))
    save_recordings(made, tmp_path / "r.safetensors")
    for one, two in zip(made, load_recordings(tmp_path / "r.safetensors"), strict=True):
        assert one.speaker == two.speaker
        np.testing.assert_array_equal(one.landmarks, two.landmarks)
        np.testing.assert_array_equal(one.speech, two.speech)


def dataset(folder: Path, sound: bool) -> Data:
    """Two samples, one to train on and one to validate on."""
    parts = {}
    for part, seed in (("train", 1), ("val", 2)):
        made = clip(seed=seed)
        fields = {"points": made.landmarks * np.float32([60, -60, 60])}
        fields |= {"audio": made.waveform} if sound else {}
        with shard_writer(folder / part / "data.tar") as shard:
            add_sample(shard, part, {"speaker": "a", "video": f"a/{part}.mp4"}, fields)
        parts[part] = open_dataset(folder / part)
    return Data(parts["train"], parts["val"])


def test_samples_without_sound_are_no_use(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    data = dataset(tmp_path, sound=False)
    with pytest.raises(UserError, match="has no audio"):
        read_motion_clip(data.train[0])
    with pytest.raises(UserError, match="0 samples to train on and 0 to validate on have sound"):
        build("atom", load("tiny"), data, tmp_path)


SMALL = [
    "atom_recordings.most=2",
    "atom.frames=32",
    "atom.overlap=8",
    "atom.estimate_layers=0",
    "atom.first_estimate=8",
]


def test_recordings_are_made_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "val", "run"):
        (tmp_path / part).mkdir()
    data, config = dataset(tmp_path, sound=True), load("tiny", overrides=SMALL)
    monkeypatch.setattr(training, "ESTIMATE_WINDOWS", 16)

    class Second(Processes):
        """A process beside the main one, which makes the recordings while this one waits."""

        rank, count = 1, 2

        def wait(self) -> None:
            assert not (tmp_path / "run" / "recordings").exists()
            build("atom", config, data, tmp_path / "run", log=said.append)

    said: list[str] = []
    task, _ = build("atom", config, data, tmp_path / "run", log=lambda line: None, processes=Second())
    assert "reading" in said[0]
    assert "making 2 recordings" in said[1]
    assert "2/2" in said[2]
    assert len(task.recordings) == 3


def test_recordings_of_other_data_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "val", "run"):
        (tmp_path / part).mkdir()
    data, config, said = dataset(tmp_path, sound=True), load("tiny", overrides=SMALL), []
    swapped = Data(data.validation, data.train)
    seeded = load("tiny", overrides=[*SMALL, "atom_training.seed=5"])
    monkeypatch.setattr(training, "ESTIMATE_WINDOWS", 16)
    for given in ((config, data), (config, data), (config, swapped), (seeded, swapped)):
        build("atom", *given, tmp_path / "run", log=said.append)
    assert sum("making" in line for line in said) == 3
    (tmp_path / "run" / "last.pt").touch()
    with pytest.raises(UserError, match=r"recordings: made with other data"):
        build("atom", config, swapped, tmp_path / "run", log=said.append)


def test_what_a_stopped_run_made_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings_folder, "PART", 2)
    clips, config = [clip("a_1"), clip("a_2", 1)], RecordingsConfig(most=5)
    folder = RecordingsFolder(tmp_path / "r", "these")

    class Stopped(Loudness):
        heard = 0

        def encode_window(self, samples: torch.Tensor) -> torch.Tensor:
            self.heard += 1
            if self.heard > 20:
                raise KeyboardInterrupt
            return super().encode_window(samples)

    with pytest.raises(KeyboardInterrupt):
        folder.make(clips, Stopped(), config, 0, lambda line: None)
    kept = {part: part.stat().st_mtime_ns for part in folder.parts()}
    assert len(kept) in (1, 2)
    said: list[str] = []
    folder.make(clips, Loudness(), config, 0, said.append)
    assert f"making {5 - 2 * len(kept)} recordings" in said[0]
    assert all(part.stat().st_mtime_ns == time for part, time in kept.items())
    whole = make_recordings(clips, Loudness(), config, 0)
    assert len(folder.load()) == len(whole) == 5
    for one, two in zip(folder.load(), whole, strict=True):
        np.testing.assert_array_equal(one.speech, two.speech)


def small_task() -> AtomTask:
    config = load("tiny")
    config = replace(
        config,
        speech=replace(config.speech, width=4),
        atom=replace(
            config.atom,
            width=32,
            layers=2,
            feed_forward=32,
            frames=32,
            overlap=8,
            dropout=0.0,
            audio_window=2,
        ),
        atom_training=replace(
            config.atom_training,
            steps=120,
            batch=4,
            learning_rate=2e-3,
            warmup=10,
            ema=0.95,
            validate_every=1000,
        ),
    )
    clips = [clip(f"a_{k}", seed=k) for k in range(3)]
    recordings = make_recordings(clips, Loudness(), PLAIN, 0, range(6))
    return AtomTask(config, recordings, clips, {"own": clips[:1]}, Loudness(), batch_size=4)


def test_every_parameter_learns() -> None:
    task = small_task()
    assert task.model.first_estimate is not None
    torch.nn.init.normal_(task.model.first_estimate.map.weight, std=0.02)
    torch.nn.init.normal_(task.model.out.weight, std=0.02)
    loss, _ = task.loss(task.batch(np.random.default_rng(0)), torch.Generator().manual_seed(0))
    loss.backward()
    silent = [n for n, p in task.model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert [n for n in silent if "null" not in n] == []


@pytest.mark.slow
def test_a_clip_is_learnt(tmp_path: Path) -> None:
    figures = fit(small_task(), small_task().config.atom_training, tmp_path, log=lambda line: None)
    assert figures["own.open"] > 0.7
    assert figures["own.zeros_still"] < 0.3


def test_the_first_estimate_learns_alone(tmp_path: Path) -> None:
    task = small_task()
    estimate = task.model.first_estimate
    assert estimate is not None
    config = replace(task.config.estimate_training, steps=80, batch=4, learning_rate=5e-3, warmup=5, ema=0.9)
    figures = fit(EstimateTask(task, estimate), config, tmp_path, log=lambda line: None)
    assert figures is not None
    assert figures["own.open"] > 0.6


def test_atom_learns_what_estimates_miss_that_never_heard_the_speaker(tmp_path: Path) -> None:
    small = small_task()
    loss = replace(small.config.atom_loss, folds=2)
    estimate = replace(small.config.estimate_training, steps=3, batch=2)
    config = replace(small.config, atom_loss=loss, estimate_training=estimate)
    clips = [clip(f"{speaker}_{k}", seed=k) for k, speaker in enumerate("aabbc")]
    recordings = make_recordings(clips, Loudness(), PLAIN, 0, range(6))
    task = AtomTask(config, recordings, clips, {"own": clips[:1]}, Loudness(), batch_size=4)
    own = task.batch(np.random.default_rng(0))
    assert own.estimate is None
    said: list[str] = []
    task.estimates = cross_fitted(task, clips, Loudness(), tmp_path, said.append, Processes())
    assert [line for line in said if "without" in line] == [
        "atom: a first estimate without a, c",
        "atom: a first estimate without b",
    ]
    assert [len(moved) for moved in task.estimates] == [len(r.landmarks) for r in task.recordings]
    batch = task.batch(np.random.default_rng(0))
    assert batch.estimate is not None
    assert batch.estimate.shape == batch.x0.shape
    assert torch.equal(batch.x0, own.x0)  # all else stays
    assert float((batch.estimate - batch.x0).abs().mean()) > 0
    # The network starts at nothing, so its loss is the estimate's.
    task.config = replace(config, atom=replace(config.atom, condition_dropout=0.0))
    whole = task.weighted(task.terms(batch.estimate, batch))
    made, _ = task.loss(batch, torch.Generator().manual_seed(0))
    assert made.item() == pytest.approx(whole.item(), rel=1e-4)


@pytest.mark.parametrize("folds", [1, 4])
def test_people_are_parted_in_as_many_as_they_are_at_most(tmp_path: Path, folds: int) -> None:
    task = small_task()
    task.config = replace(task.config, atom_loss=replace(task.config.atom_loss, folds=folds))
    with pytest.raises(UserError, match=f"atom_loss.folds = {folds}: 1 people cannot be split so"):
        cross_fitted(task, [], Loudness(), tmp_path, print, Processes())


def test_lips_of_all_people_move_as_far(tmp_path: Path) -> None:
    task = small_task()
    (rest, factor) = task.styles["a"]
    loud = clip("a_9", 9).landmarks
    assert factor == pytest.approx(1)
    task.styles["a"] = (rest, 2.0)
    wide = task.of_usual_range(loud, "a")
    np.testing.assert_allclose(wide[:, :, 1].std(0)[65:68], 2 * loud[:, :, 1].std(0)[65:68], rtol=1e-4)
    np.testing.assert_array_equal(wide[:, 17:48], loud[:, 17:48])


def test_people_and_plain_clips_are_drawn_as_asked() -> None:
    config = RecordingsConfig(imbalance=0.5, plain=0.6, favoured=("b",))
    plain, varied = (("a", 100), ("a", 300), ("b", 100)), (("a", 250), ("b", 250), ("b", 250))
    made = [
        Recording(speaker, np.zeros((frames, 68, 3)), np.zeros((2 * frames, 4)), kind is plain)
        for kind in (plain, varied)
        for speaker, frames in kind
    ]
    chance = chances(made, config)
    assert chance.sum() == pytest.approx(1)
    b = chance[[2, 4, 5]]
    assert b.sum() / (1 - b.sum()) == pytest.approx(3 * 100**0.5 / 400**0.5)
    assert chance[1] / chance[0] == pytest.approx(3)
    assert b[0] / b.sum() == pytest.approx(0.6)
    assert b[1] == b[2]


def test_batches_depend_on_the_seed_alone() -> None:
    one, two = (small_task().batch(np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one.x0, two.x0)
    assert torch.equal(one.speech, two.speech)
    assert one.x0.shape == (4, 32, 204)
    assert SAMPLE_RATE == 25 * FRAME


def test_the_first_estimate_starts_as_a_regression() -> None:
    config = replace(
        load("tiny"),
        atom=replace(
            load("tiny").atom, first_estimate=4, estimate_layers=0, frames=32, overlap=8, width=32, layers=1
        ),
        speech=replace(load("tiny").speech, width=4),
    )
    clips = [clip(f"a_{k}", seed=k) for k in range(4)]
    recordings = make_recordings(clips, Loudness(), PLAIN, 0, range(6))
    figures = AtomTask(config, recordings, clips, {"a": clips}, Loudness()).validate()
    assert figures["a.open"] > 0.5
