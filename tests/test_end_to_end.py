"""The main job as a user runs it: a process of its own, files in, a file out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from skimage import data
from standins import ASTRONAUT, grid_clip, needs_grid

from moditalker import MoDiTalker
from moditalker.media import AudioReader, VideoReader, read_clip


def moditalker(*arguments: object, expect: int = 0) -> str:
    """Run a command; its output."""
    command = [sys.executable, "-m", "moditalker", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert "Traceback" not in result.stderr
    assert result.returncode == expect, result.stderr
    return result.stdout if expect == 0 else result.stderr


def generate(face: Path, audio: Path, out: Path, weights: str, *more: object) -> dict:
    report = out.with_suffix(".json")
    line = moditalker(
        "generate",
        "--face",
        face,
        "--audio",
        audio,
        "--out",
        out,
        "--model",
        weights,
        "--report",
        report,
        *more,
    )
    assert len(line.splitlines()) == 1
    return json.loads(report.read_text())


def sound_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def write_video(path: Path, frames: list[np.ndarray], fps: int, codec: str = "libx264") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for i, frame in enumerate(frames):
            native = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            native.pts, native.time_base = i, Fraction(1, fps)
            container.mux(stream.encode(native))
        container.mux(stream.encode(None))
    return path


@needs_grid
def test_self_driven_clip_keeps_frames_times_size_and_sound(tmp_path, weights):
    clip = grid_clip()
    report = generate(clip, clip, tmp_path / "out.mp4", weights, "--seed", 3)
    source, result = VideoReader(clip), VideoReader(tmp_path / "out.mp4")
    assert [f.time for f in result] == [f.time for f in source]
    assert (result.info.width, result.info.height) == (source.info.width, source.info.height)
    assert sound_packets(tmp_path / "out.mp4") == sound_packets(clip)
    assert report["frames"] == 75
    assert report["frames_without_face"]["count"] == 0
    assert report["seed"] == 3
    assert set(report["weights_sha256"]) == {"atom.safetensors", "mtov.safetensors"}
    assert all(len(digest) == 64 for digest in report["weights_sha256"].values())


@needs_grid
def test_lossless_pixels_outside_the_mouth_are_the_sources_and_seeds_repeat(tmp_path, weights, speech_wav):
    face = next(grid_clip("s32/x").parent.glob("*.mpg"))
    outs = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for out in outs:
        generate(face, speech_wav, out, weights, "--lossless")
    first, second = (read_clip(out).frames for out in outs)
    assert np.array_equal(first, second)
    source = read_clip(face).frames[: len(first)]
    changed = (first != source).any(-1)
    assert changed.any(axis=(1, 2)).all()
    assert changed.mean() < 0.25
    assert not changed[:, :100].any()  # well above the mouth


def test_a_picture_speaks(tmp_path, weights, speech_wav):
    report = generate(ASTRONAUT, speech_wav, tmp_path / "out.mp4", weights)
    frames = list(VideoReader(tmp_path / "out.mp4"))
    assert len(frames) == report["frames"] == ceil(AudioReader(speech_wav).seconds * 25)
    assert (report["width"], report["height"], report["fps"]) == (512, 512, 25.0)


@pytest.fixture(scope="module")
def talker(weights):
    return MoDiTalker.from_pretrained(weights)


PICTURE = data.astronaut()[0:256, 90:346]


def test_a_video_of_one_frame(tmp_path, talker, speech_wav):
    face = write_video(tmp_path / "one.mp4", [PICTURE], 25)
    assert talker.generate(face, speech_wav).save(tmp_path / "out.mp4")["frames"] == 26


def test_one_of_five_faces_is_chosen(tmp_path, talker, speech_wav):
    row = np.concatenate([PICTURE[:200, 20:220][:, :: -1 if i % 2 else 1] for i in range(5)], axis=1)
    Image.fromarray(row).save(tmp_path / "five.png")
    _, image = next(iter(talker.generate(tmp_path / "five.png", speech_wav, choose=3)))
    columns = np.flatnonzero((image != row).any((0, 2)))
    assert columns.min() >= 600
    assert columns.max() < 800


def test_a_face_that_leaves_and_comes_back(tmp_path, talker, speech_wav):
    frames = [PICTURE] * 8 + [np.full_like(PICTURE, 60)] * 20 + [PICTURE] * 8
    face = write_video(tmp_path / "away.mp4", frames, 10)
    report = talker.generate(face, write_long(tmp_path, speech_wav, 3.6)).save(tmp_path / "out.mp4")
    assert report["frames"] == 36
    gone = [kept for kept in report["frames_without_face"]["ranges"] if kept["reason"] == "no face"]
    assert gone == [{"first": 8, "last": 27, "reason": "no face"}]


def test_a_cut_off_file_gives_what_is_left_of_it(tmp_path, talker, speech_wav):
    frames = [np.roll(PICTURE, i, axis=1) for i in range(30)]
    whole = write_video(tmp_path / "whole.mkv", frames, 25, "ffv1").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    report = talker.generate(tmp_path / "cut.mkv", speech_wav, extend="none").save(tmp_path / "out.mp4")
    assert 1 <= report["frames"] < 26


def write_long(folder: Path, speech: Path, seconds: float) -> Path:
    from conftest import write_wav

    samples = AudioReader(speech).read()
    return write_wav(folder / f"{seconds}.wav", np.resize(samples, round(seconds * 16_000)))


def test_demo_needs_nothing_but_the_package(tmp_path, weights):
    if weights != "tiny":
        pytest.skip("this checkout has no weights yet")
    out = tmp_path / "demo.mp4"
    done = subprocess.run(
        [sys.executable, "-m", "moditalker", "generate", "--out", out], capture_output=True, text=True
    )
    assert str(out) in done.stdout
    assert len(read_clip(out).frames) > 100
    (following,) = re.findall(r"^next.*: (moditalker generate .*)$", done.stderr, re.MULTILINE)
    assert following in (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_memory_does_not_grow_with_length(tmp_path, weights, speech_wav):
    frames = [np.roll(data.astronaut()[:320, 60:380], i % 7, axis=1) for i in range(20)]
    face = write_video(tmp_path / "face.mp4", frames, 10)
    peaks = [
        generate(face, write_long(tmp_path, speech_wav, seconds), tmp_path / f"{seconds}.mp4", weights)[
            "peak_rss_bytes"
        ]
        for seconds in (10.0, 60.0)
    ]
    assert peaks[1] <= peaks[0] + 50e6
    assert peaks[1] <= 2e9


@pytest.mark.slow
def test_a_huge_picture_is_reduced_and_speaks(tmp_path, weights, speech_wav):
    Image.fromarray(data.astronaut()).resize((12000, 9000)).save(tmp_path / "huge.jpg")
    report = generate(tmp_path / "huge.jpg", speech_wav, tmp_path / "out.mp4", weights)
    assert report["peak_rss_bytes"] <= 2e9
    assert any("reduced" in note for note in report["notes"])
