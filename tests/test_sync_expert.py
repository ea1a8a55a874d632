"""Mouth-audio match: planted offsets, learning from nothing but moving squares, real people, bad input."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from skimage import data
from standins import grid_clip, needs_grid

from moditalker import cli
from moditalker.config import load, override
from moditalker.data.shards import add_sample, shard_writer
from moditalker.errors import UserError
from moditalker.features.face.tracker import FaceTracker
from moditalker.features.speech.encoders import FRAME, load_speech_encoder
from moditalker.media import AudioReader, read_clip
from moditalker.metrics.sync import MOST
from moditalker.metrics.sync_expert import LEAST, Expert, Match, compare, load_expert
from moditalker.training.tasks.sync_expert import FRAMES, SURROUND, SyncClip, SyncExpertTask
from moditalker.weights import named
from moditalker.weights.named import GIVEN

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "sync.md").read_text(encoding="utf-8")


def unit(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x / np.linalg.norm(x, axis=-1, keepdims=True)).float()


def pair(late: int, frames: int = 75, noise: float = 0.7) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of sound, and of lips that show the same ``late`` frames afterwards."""
    rng = np.random.default_rng(late + 100)
    said = rng.normal(size=(frames + 40, 16))
    lips = said[20 - late : 20 - late + frames] + noise * rng.normal(size=(frames, 16))
    return unit(lips)[None], unit(said[20 : 20 + frames])[None]


@pytest.mark.parametrize("late", range(-10, 11))
def test_planted_offsets_are_found(late: int) -> None:
    found = Match(compare(*pair(late))[0, 0].numpy())
    assert found.offset == late
    assert found.confidence > 0.9
    assert found.match == pytest.approx(1 - abs(late) / (MOST + 1), abs=0.1)


def test_similarities_are_means_of_cosines() -> None:
    rng = np.random.default_rng(0)
    lips, sound = (unit(rng.normal(size=(n, 20, 8))) for n in (2, 3))
    counted = torch.from_numpy(rng.random((2, 20)) < 0.7)
    found = compare(lips, sound, 4, counted)
    for b in range(2):
        for c in range(3):
            for offset in range(-4, 5):
                cosines = [
                    float(lips[b, i] @ sound[c, i - offset])
                    for i in range(20)
                    if 0 <= i - offset < 20 and counted[b, i]
                ]
                assert found[b, c, offset + 4] == pytest.approx(np.mean(cosines), abs=1e-6)


def test_unrelated_sound_gets_no_credit() -> None:
    lips, _ = pair(0)
    _, other = pair(7)
    found = Match(compare(lips, other)[0, 0].numpy())
    assert found.match < 0.1
    assert found.confidence < 0.2
    assert found.contrast == pytest.approx(0, abs=0.2)


# ------------------------------------------------------------------------------------------------ learning


def squares(seed: int, speaker: str = "a", frames: int = 60) -> SyncClip:
    """A dark square opens and shuts on a grey face; two of the features tell how far, one frame earlier."""
    rng = np.random.default_rng(seed)
    opening = np.convolve(rng.normal(size=frames + 8), np.ones(3) / 2, "same")[4:-4]
    side = 64 + 2 * SURROUND
    pictures = np.full((frames, side, side), 150 - 20 * seed % 40, np.uint8)
    for picture, gap in zip(pictures, opening, strict=True):
        half = int(np.clip(6 + 5 * gap, 0, 14))
        picture[side // 2 - half : side // 2 + half, side // 2 - 14 : side // 2 + 14] = 40
    speech = rng.normal(0, 0.3, size=(2 * frames, 24))
    speech[:, 3] += 4 * opening.repeat(2)
    speech[:, 5] -= 4 * opening.repeat(2)
    return SyncClip(speaker, pictures, speech[None].astype(np.float16))


def test_it_learns_what_goes_together() -> None:
    config = override(
        load("tiny"),
        [
            *("speech.width=24", "sync_expert.channels=8", "sync_expert.width=32", "sync_expert.dropout=0"),
            "sync_expert_training.batch=5",
        ],
    )
    torch.manual_seed(0)
    task = SyncExpertTask(config, [squares(i) for i in range(8)], [squares(20 + i, "b") for i in range(4)])
    optimizer = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    losses = []
    for step in range(45):
        loss, terms = task.loss(task.batch(np.random.default_rng(step)), torch.Generator())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in task.model.parameters())
        optimizer.step()
        losses.append(terms["frame"])
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    task.model.eval()
    with torch.no_grad():
        figures = task.validate()
        picture = task.preview()
    assert figures["unseen.auc_4"] > 0.9
    assert figures["unseen.auc_wrong"] > 0.9
    assert figures["unseen.in_time"] == 1
    assert picture.shape == (4 * 8, (2 * MOST + 1) * 8, 3)
    assert (picture[::8, ::8, 0].argmax(1) - MOST == 0).all()


def test_batches_are_a_function_of_the_seed() -> None:
    config = override(load("tiny"), ["speech.width=24", "sync_expert_training.batch=3"])
    task = SyncExpertTask(config, [squares(i) for i in range(4)], [squares(9), squares(10)])
    a, b, c = (task.batch(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.mouths, b.mouths)
    assert torch.equal(a.speech, b.speech)
    assert not torch.equal(a.mouths, c.mouths)
    assert a.mouths.shape == (3, FRAMES, 32, 32)
    assert a.speech.shape == (3, 2 * FRAMES, 24)
    with pytest.raises(UserError, match="2 clips to train on"):
        SyncExpertTask(replace(config), [squares(i) for i in range(2)] + [squares(3, frames=20)], [])


def test_from_clips_on_disk_to_an_expert(tmp_path: Path) -> None:
    sound = AudioReader(named.ASSETS / "demo_speech.flac").read(10.0)
    folder = tmp_path / "clips"
    _save_clips(folder, sound)
    names = [f"p{number}/x.mp4" for number in range(5)]
    (tmp_path / "split.json").write_text(json.dumps({"train": names[:3], "val": names[3:]}))
    options = ["batch=2", "steps=2", "warmup=1", "validate_every=2"]
    arguments = ["train", "sync-expert", "--data", str(folder), "--split", str(tmp_path / "split.json")]
    arguments += ["--out", str(tmp_path / "run"), *(f"--set=sync_expert_training.{o}" for o in options)]
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert not left.value.code
    expert = load_expert(tmp_path / "run" / "sync-expert.safetensors")
    found = expert.match_crops(_crops(0), sound)
    assert found.probabilities.sum() == pytest.approx(1)
    assert 0 <= found.match <= 1
    _save_clips(folder, None)
    assert _code(["--out", str(tmp_path / "other"), *arguments[:6]]) == 2


def _crops(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (50, 128, 128, 3), dtype=np.uint8)


def _save_clips(folder: Path, sound: np.ndarray | None) -> None:
    """Five people, one clip each: noise, with or without sound."""
    folder.mkdir(exist_ok=True)
    with shard_writer(folder / "data-000000.tar") as shard:
        for number in range(5):
            fields = {"crops": _crops(number), "landmarks": np.zeros((50, 68, 3), np.float32)}
            if sound is not None:
                fields["audio"] = np.roll(sound, 9000 * number)[: 50 * FRAME].copy()
            add_sample(shard, f"p{number}_x", {"speaker": f"p{number}", "video": f"p{number}/x.mp4"}, fields)


def _code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([*arguments[2:], *arguments[:2]])
    return int(left.value.code or 0)


# --------------------------------------------------------------------------------------------- the package's


@pytest.fixture(scope="module")
def expert() -> Expert:
    return load_expert()


def test_the_weights_are_small_and_say_what_they_are(expert: Expert) -> None:
    path = named.find("sync-expert")
    assert path.stat().st_size < 1_000_000
    assert "GRID" in (named.ASSETS / "NOTICE").read_text(encoding="utf-8")
    assert expert.config.speech.encoder == "whisper"


@needs_grid
@pytest.mark.parametrize(("name", "other"), [("s32/bbac1n", "s32/sbwe5n"), ("s31/bbac2n", "s32/bbac1n")])
def test_people_it_never_saw(expert: Expert, name: str, other: str) -> None:
    clip = read_clip(grid_clip(name))
    faces = list(FaceTracker().track(iter(clip.frames), 25.0))
    points = np.stack([face.landmarks for face in faces])
    sound = AudioReader(grid_clip(name)).read(10.0)
    found = expert.match(clip.frames, points, sound)
    assert abs(found.offset) <= 1
    assert found.match > 0.8
    for late in (2, 5, 10):
        ahead = np.pad(sound, (late * FRAME, 0))[: len(sound)]
        moved = expert.match(clip.frames, points, ahead)
        assert abs(moved.offset - found.offset + late) <= 1
        assert moved.match < found.match
    wrong = AudioReader(grid_clip(other)).read(10.0)
    assert expert.match(clip.frames, points, wrong).match < found.match - 0.3
    # a face lost for a while, and a video of another frame rate
    lost = points.copy()
    lost[10:14] = np.nan
    assert abs(expert.match(clip.frames, lost, sound).offset - found.offset) <= 1
    double = expert.match(clip.frames.repeat(2, 0), points.repeat(2, 0), sound, 50.0)
    assert double.match == pytest.approx(found.match, abs=0.05)


def test_bad_input_is_said(expert: Expert) -> None:
    crops = np.zeros((LEAST, 128, 128, 3), np.uint8)
    sound = np.zeros(LEAST * FRAME, np.float32)
    still = expert.match_crops(crops, sound)  # a black picture and silence are no reason to fail
    assert np.isfinite(still.similarities).all()
    with pytest.raises(UserError, match=r"1\.56 s of video with 1\.60 s of sound; .* needs 1\.60 s of both"):
        expert.match_crops(crops[1:], sound)
    with pytest.raises(UserError, match=r"0\.00 s of sound"):
        expert.match_crops(crops, sound[:0])
    with pytest.raises(UserError, match="0 of 40 frames show a face"):
        expert.match_crops(crops, sound, np.zeros(LEAST, bool))
    with pytest.raises(ValueError, match="128, 128"):
        expert.match_crops(crops[:, :64], sound)
    with pytest.raises(ValueError, match="landmarks"):
        expert.match(crops, np.zeros((3, 68, 2)), sound)
    with pytest.raises(UserError, match="show a face"):
        expert.match(crops, np.full((LEAST, 68, 3), np.nan), sound)


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    """On the astronaut, who drifts and says nothing, with the package's own sentence."""
    frames = [data.astronaut()[:256, i : i + 320] for i in np.linspace(0, 30, 45).astype(int)]
    _write(tmp_path / "talking.mp4", frames, AudioReader(named.ASSETS / "demo_speech.flac").read(1.8))
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    exec(compile(example, "sync.md", "exec"), {})
    match, offset, confidence, contrast = map(float, capsys.readouterr().out.split())
    assert 0 <= match <= confidence < 0.5  # lips at rest say nothing
    assert abs(offset) <= MOST
    assert contrast < 0.3


def _write(path: Path, frames: list[np.ndarray], sound: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "18"})
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), "fltp", "mono")
        samples.rate = 16_000
        container.mux(audio.encode(samples))
        container.mux(audio.encode(None))


def test_the_commands_of_the_page_exist() -> None:
    lines = [
        line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.S) for line in block.splitlines()
    ]
    for line in lines:
        program, *words = shlex.split(line)
        if program == "curl":
            assert line in GIVEN["syncnet"].how
            continue
        called = [sys.executable, "-m", "moditalker", words[0]]
        if program == "python":
            called = [sys.executable, str(ROOT / words[0])]
        elif words[0] == "weights":
            called.append(words[1])
        shown = subprocess.run([*called, "--help"], capture_output=True, text=True, check=True).stdout
        assert all(word in shown for word in words if word.startswith("--"))
    assert len(lines) == 4


def test_other_files_and_settings_are_refused(tmp_path: Path, shipped: Path) -> None:
    with pytest.raises(UserError, match="does not hold a sync expert"):
        load_expert(shipped / "atom.safetensors")
    with pytest.raises(UserError, match="does not exist"):
        load_expert(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match=r"sync_expert\.side = 20"):
        override(load("tiny"), ["sync_expert.side=20"])
    config = load("tiny")
    with pytest.raises(UserError, match=r"must not exceed crop\.size"):
        SyncExpertTask(replace(config, sync_expert=replace(config.sync_expert, top=100)), [], [])
    assert load_speech_encoder(config.speech).width == config.speech.width
