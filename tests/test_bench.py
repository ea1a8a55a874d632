"""`moditalker evaluate speed`: what it reports, and operations against those of a formula."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from standins import ASTRONAUT, live_talker, talker

from moditalker import cli
from moditalker.cli.speed import table
from moditalker.errors import UserError
from moditalker.evaluate import speed as bench
from moditalker.jobs.streams import Clock
from moditalker.video.stage import MissingSampler
from moditalker.weights.named import PORTRAIT


@pytest.fixture(scope="module")
def result(tmp_path_factory, shipped, speech_wav) -> dict:
    """One second by the command: its JSON."""
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    with pytest.raises(SystemExit) as left:
        cli.main(f"evaluate speed --model {shipped} --audio {speech_wav} --seconds 1.2 --json {out}".split())
    assert not left.value.code
    return json.loads(out.read_text())


def test_it_measures_what_was_made(result):
    assert (result["frames"], result["fps"], result["video_seconds"]) == (30, 25.0, 1.2)
    assert (result["width"], result["height"], result["face"]) == (384, 384, PORTRAIT.name)
    assert result["repeat"] == 1
    assert result["steps"] == {"motion": 2, "video": 1}  # of the small preset
    stages = ["preparing", "speech", "motion", "face", "video", "paste", "write"]
    assert list(result["stages"]) == stages
    assert all(times["cpu_seconds"] > 0 for times in result["stages"].values())
    assert 0 < result["first_frame_seconds"] <= result["seconds"]
    assert result["startup_seconds"] > 0
    assert result["real_time_factor"] == pytest.approx(result["seconds"] / 1.2, abs=1e-3)
    assert result["peak_rss_bytes"] > 100e6


def test_the_table_tells_the_same(result):
    text = table(result)
    assert re.search(rf"real-time factor +{result['real_time_factor']:.3f} ", text)
    assert all(re.search(rf"^{name} +[\d.]+ +[\d.]+", text, flags=re.M) for name in result["stages"])
    # The released networks: (20 + 25 * 2.5 + 20) s and (30 + 25 * 6 + 20) s for 0.64 s.
    assert "real-time factor 160-312" in text


def test_operations_are_those_of_a_formula(result):
    flops = result["flops_per_second_of_video"]
    assert flops["total"] == pytest.approx(sum(v for k, v in flops.items() if k != "total"))
    # Whisper's encoder on 4 s of sound (2 of them context): 400 spectra of 201 bins, 200 vectors of 384.
    spectra, length, d, layers = 400, 200, 384, 3
    front = 80 * 201 * spectra + 3 * 80 * d * spectra + 3 * d * d * length
    layer = length * (3 * d * d + d * d + 8 * d * d) + 2 * length * length * d
    assert flops["speech"] == 2 * (front + layers * layer) / 2


def test_more_steps_are_more_operations():
    model = talker()
    one, three = (bench.flops(model, 25, steps)["motion"] for steps in (1, 3))
    assert one < three < 3 * one  # conditions are encoded once
    assert bench.flops(model, 50)["face"] == 2 * bench.flops(model, 25)["face"]


def test_a_model_without_mtov_has_operations_too():
    model = live_talker()
    model.sampler = MissingSampler(Path("mtov.safetensors"))
    assert all(count > 0 for count in bench.flops(model, 25).values())


@pytest.mark.parametrize(("seconds", "repeat"), [(0, 1), (-1, 1), (float("nan"), 1), (1e9, 1), (1, 0)])
def test_lengths_that_are_none(seconds, repeat):
    with pytest.raises(UserError, match="it must be"):
        bench.measure(ASTRONAUT, Path("x.wav"), seconds, repeat=repeat)


def test_the_clock_tells_waiting_from_work():
    import time

    clock = Clock()
    with clock.stage("waiting"):
        time.sleep(0.05)
    with clock.stage("kept"):
        pass
    assert clock.cpu["waiting"] < clock.seconds["waiting"]
    clock.forget(keep={"kept"})
    assert set(clock.seconds) == set(clock.cpu) == {"kept"}
