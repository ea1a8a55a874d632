"""`moditalker train` from clips on disk to weights; killed, stopped and shared runs end alike."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from standins import needs_gpu

from moditalker import cli
from moditalker.config import load, to_dict
from moditalker.data.parts import find_data, parse_speakers
from moditalker.data.shards import add_sample, shard_writer
from moditalker.errors import UserError
from moditalker.geometry.looks import Identity
from moditalker.jobs.files import claimed
from moditalker.video.stage import load_sampler
from moditalker.weights.files import load_weights

SMALL = [
    f"--set={part}"
    for part in (
        "autoencoder.dim=32",
        "autoencoder.head_dim=8",
        "autoencoder.encoder_layers=1",
        "autoencoder.decoder_layers=1",
        "mtov.blocks=1",
        *(
            f"{task}_training.{setting}"
            for task in ("autoencoder", "mtov")
            for setting in ("batch=1", "steps=6", "warmup=1", "validate_every=3", "save_minutes=0.0001")
        ),
    )
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two people: moving gradients with landmarks on them."""
    folder = tmp_path_factory.mktemp("dataset")
    y, x = np.mgrid[:128, :128]
    angle = np.linspace(0, 2 * np.pi, 68)
    with shard_writer(folder / "data-000000.tar") as shard:
        for i, name in enumerate(("a/one", "a/two", "b/one", "b/two")):
            phase = np.arange(20)[:, None, None]
            grey = 127 + 60 * np.sin((x + y) / 20 + phase / 3 + i) + 40 * np.cos(y / 9 - i)
            points = np.stack([64 + 30 * np.cos(angle), 90 + 20 * np.sin(angle)], axis=-1)
            about = {"speaker": name[0], "video": f"{name}.mp4", "crop": to_dict(load("tiny"))["crop"]}
            fields = {
                "crops": np.repeat(grey[..., None], 3, axis=-1).clip(0, 255).astype(np.uint8),
                "landmarks": np.repeat(points[None], 20, axis=0).astype(np.float32),
            }
            add_sample(shard, name.replace("/", "_"), about, fields)
    (folder / "split.json").write_text(
        '{"train": ["a/one.mp4", "b/one.mp4"], "val": ["a/two.mp4", "b/two.mp4"]}'
    )
    return folder


def arguments(task: str, data: Path, out: Path, *more: str) -> list[str]:
    found = ["--data", str(data), "--split", str(data / "split.json"), "--out", str(out)]
    return ["train", task, *found, *SMALL, *more]


def run(*given: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(list(given))
    return int(left.value.code or 0)


def final(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(out / "last.pt", weights_only=True)["model"]
    return state


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the video parts: ae, lae, mtov."""
    folder = tmp_path_factory.mktemp("trained")
    assert run(*arguments("autoencoder", data, folder / "ae")) == 0
    assert run(*arguments("landmark-autoencoder", data, folder / "lae")) == 0
    more = ["--autoencoder", str(folder / "ae"), "--landmark-autoencoder", str(folder / "lae")]
    assert run(*arguments("mtov", data, folder / "mtov", *more)) == 0
    return folder


def test_all_video_parts_and_what_a_run_leaves_behind(trained: Path) -> None:
    for task, folder in (("autoencoder", "ae"), ("mtov", "mtov")):
        out = trained / folder
        names = {path.name for path in out.iterdir()}
        assert {
            "config.yaml",
            "data.json",
            "environment.json",
            "log.jsonl",
            "preview.png",
            "last.pt",
        } <= names
        state, description = load_weights(out / f"{task}.safetensors")
        assert description["figures"]
        assert all(tensor.isfinite().all() for tensor in state.values())
        assert [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()] == list(
            range(1, 7)
        )


@pytest.mark.slow
def test_one_command_trains_the_whole_video_stage(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "stage"
    given = [*arguments("video", data, out), "--minutes=1"]
    assert run(*given) == 0
    for part in ("autoencoder", "landmark-autoencoder", "mtov"):
        state, description = load_weights(out / part / f"{part}.safetensors")
        assert description["figures"]
        assert all(tensor.isfinite().all() for tensor in state.values())
    frames = iter([(np.zeros((128, 128, 3), np.uint8), points := face(), points)] * 3)
    sampler = load_sampler(out / "mtov" / "mtov.safetensors")
    made = list(sampler(frames, Identity(np.zeros((128, 128, 3), np.uint8), face())))
    assert len(made) == 3  # what it leaves makes videos
    # A landmark encoder of fewer layers than the autoencoder's has no run to start from.
    deeper = [*arguments("video", data, tmp_path / "deeper"), "--set=autoencoder.encoder_layers=2"]
    assert run(*deeper) == 0
    assert sorted(path.name for path in (tmp_path / "deeper").iterdir()) == ["autoencoder", "mtov"]
    capsys.readouterr()
    assert run(*given) == 2
    assert "--resume" in capsys.readouterr().err
    assert run(*given, "--resume") == 0
    assert run(*given, "--start-from", "x.safetensors") == 2
    assert "leave out" in capsys.readouterr().err


def face() -> np.ndarray:
    """Landmarks (68, 2) on a circle."""
    angle = np.linspace(0, 2 * np.pi, 68)
    return np.stack([64 + 30 * np.cos(angle), 90 + 20 * np.sin(angle)], axis=-1).astype(np.float32)


def test_minutes_end_a_run_and_its_schedule(data: Path, tmp_path: Path) -> None:
    more = ["--minutes=0.02", "--set=autoencoder_training.steps=100000"]
    assert run(*arguments("autoencoder", data, tmp_path / "run", *more)) == 0
    steps = len((tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert 0 < steps < 100000


def test_mistakes_are_one_sentence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").touch()
    assert run(*arguments("autoencoder", data, tmp_path / "run")) == 2
    assert "--resume" in capsys.readouterr().err
    assert run(*arguments("mtov", data, tmp_path / "m")) == 2
    assert "--autoencoder" in capsys.readouterr().err
    assert run(*arguments("mtov", data, tmp_path / "m", "--autoencoder", str(tmp_path / "run"))) == 2
    assert "checkpoint" in capsys.readouterr().err
    empty = [
        str(tmp_path) if part == str(data) else part
        for part in arguments("autoencoder", data, tmp_path / "n")
    ]
    assert run(*empty) == 2
    assert "no dataset" in capsys.readouterr().err
    assert run(*arguments("atom", data, tmp_path / "a")) == 2
    assert "sound" in capsys.readouterr().err


def test_a_run_goes_on_alone_as_it_was_begun(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    given = [*arguments("autoencoder", data, out), "--set=autoencoder_training.steps=1"]
    assert run(*given, "--resume") == 2
    assert "holds no run to resume" in capsys.readouterr().err
    assert run(*given) == 0
    weights = (out / "autoencoder.safetensors").read_bytes()
    (out / "autoencoder.safetensors").unlink()  # as after a kill between the last checkpoint and the weights
    assert run(*given, "--resume") == 0
    assert (out / "autoencoder.safetensors").read_bytes() == weights
    assert run(*given, "--resume", "--set=autoencoder_training.steps=2") == 0
    capsys.readouterr()
    assert run(*given, "--resume", "--set=autoencoder_training.weight_decay=0.5") == 2
    assert "weight_decay = 0.01 (now 0.5)" in capsys.readouterr().err
    assert run(*given, "--resume", "--held-out", "b") == 2
    assert "other data" in capsys.readouterr().err
    with claimed(out):
        assert run(*given, "--resume") == 2
    assert "another run is at work in it" in capsys.readouterr().err
    assert run(*arguments("autoencoder", data, data / "split.json")) == 2
    assert "cannot be a folder" in capsys.readouterr().err


def test_who_is_held_out(data: Path, tmp_path: Path) -> None:
    assert {sample.speaker for sample in find_data(data, None, parse_speakers(" b,")).train} == {"a"}
    with pytest.raises(UserError, match=r"no speaker zzz to hold out; there are \['a', 'b'\]"):
        find_data(data, None, parse_speakers("zzz, b"))
    split = tmp_path / "split.json"
    split.write_text('{"val": ["b/", "c/"], "train": "rest"}')
    found = find_data(data, split)
    assert [sample.speaker for sample in found.validation] == ["b", "b"]
    assert found.unmatched == ("c/",)
    split.write_text('{"val": ["b"], "train": "rest"}')
    with pytest.raises(UserError, match='"b" is a folder of videos; "b/" means all in it'):
        find_data(data, split)
    split.write_text('{"val": ["c/"], "train": "rest"}')
    with pytest.raises(UserError, match="0 to validate on"):
        find_data(data, split)


LONG = ["--set=autoencoder_training.steps=16", "--set=autoencoder_training.validate_every=16"]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing ended."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ended") / "whole"
    assert run(*arguments("autoencoder", data, folder), *LONG) == 0
    return folder


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_that_is_ended_goes_on_to_the_same_weights(
    data: Path, tmp_path: Path, whole: Path, how: signal.Signals
) -> None:
    torch.set_num_threads(1)
    parts = [*arguments("autoencoder", data, tmp_path / "parts"), *LONG]
    code = "import sys, torch; torch.set_num_threads(1); from moditalker import cli; cli.main(sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", code, *parts], stdout=subprocess.DEVNULL) as process:
        log = tmp_path / "parts" / "log.jsonl"
        while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= 4):
            time.sleep(0.01)
        process.send_signal(how)
    assert torch.load(tmp_path / "parts" / "last.pt", weights_only=True)["step"] < 16
    assert (tmp_path / "parts" / "autoencoder.safetensors").exists() == (how == signal.SIGTERM)
    assert run(*parts, "--resume") == 0
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, 17))
    one, two = final(whole), final(tmp_path / "parts")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_two_processes_are_one(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    more = ["--set=autoencoder_training.accumulate=2", "--set=autoencoder_training.steps=3"]
    assert run(*arguments("autoencoder", data, tmp_path / "one"), *more) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    two = [*arguments("autoencoder", data, tmp_path / "two"), *more, "--accelerate"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, "-m", "moditalker", *two], check=True, env=env, **quiet)
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
    one, other = final(tmp_path / "one"), final(tmp_path / "two")
    assert all(torch.allclose(one[name], other[name], atol=1e-5, rtol=0) for name in one)


def test_training_goes_on_from_weights_and_is_distilled(data: Path, tmp_path: Path, trained: Path) -> None:
    start = ["--start-from", str(trained / "mtov" / "mtov.safetensors")]
    assert run(*arguments("mtov", data, tmp_path / "two", *start), "--set=mtov_training.steps=2") == 0
    few = ["--set=distillation_training.steps=2", "--set=distillation_training.batch=1"]
    assert run(*arguments("distillation", data, tmp_path / "few", *start, *few)) == 0
    state, description = load_weights(tmp_path / "few" / "mtov.safetensors")
    assert description["config"]["mtov_diffusion"]["sampling_steps"] == 1
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_weights_of_another_size_are_refused(
    data: Path, tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--start-from", str(trained / "ae" / "autoencoder.safetensors")]
    assert run(*arguments("mtov", data, tmp_path / "m", *start)) == 2
    assert "another part" in capsys.readouterr().err
    assert run(*arguments("distillation", data, tmp_path / "d")) == 2
    assert "--start-from" in capsys.readouterr().err


@needs_gpu
def test_every_video_part_trains_on_a_gpu(data: Path, tmp_path: Path) -> None:
    how = ["--accelerate", "--precision", "bf16"]
    assert run(*arguments("autoencoder", data, tmp_path / "ae", *how)) == 0
    assert run(*arguments("landmark-autoencoder", data, tmp_path / "lae", *how)) == 0
    more = [*how, "--autoencoder", str(tmp_path / "ae")]
    assert run(*arguments("mtov", data, tmp_path / "mtov", *more)) == 0
    start = ["--start-from", str(tmp_path / "mtov" / "mtov.safetensors")]
    few = [f"--set=distillation_training.{part}" for part in ("batch=1", "steps=4", "validate_every=2")]
    assert run(*arguments("distillation", data, tmp_path / "few", *how, *start, *few)) == 0
    assert json.loads((tmp_path / "few" / "environment.json").read_text())["device"].startswith("cuda")
