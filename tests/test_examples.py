"""The example of each command runs, on files with the names that it has."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import write_video
from standins import grid_clip, needs_grid
from test_help import COMMANDS, EXAMPLE

from moditalker.media import read_clip

# What makes an example short, and what its files are made by.
SHORTER = {"--minutes 10": "--minutes 0.05", "--seconds 30": "--seconds 1", "--workers 2": "--workers 1"}
BEFORE = {"verify": ["generate"]}
ELSEWHERE = {  # why an example is not run here, and where the command is
    "serve": "test_serve.py: it does not end by itself",
    "train": "test_train_command.py: it takes an hour",
    "adapt": "test_adapt.py: it takes ten minutes",
    "evaluate benchmark": "test_benchmark.py: it needs a data set",
    "evaluate study score": "test_ab.py: people answer",
    "weights add": "test_lpips.py: the file is not ours",
    "weights convert": "test_convert.py: the file is not ours",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, speech_wav: Path) -> Path:
    """Files by the names of the examples."""
    here = tmp_path_factory.mktemp("examples")
    frames = read_clip(grid_clip()).frames[:40]
    shutil.copy(speech_wav, here / "speech.wav")
    person = write_video(here / "person.mp4", frames, speech_wav)
    write_video(here / "film.mkv", frames, speech_wav)
    (here / "german.srt").write_text("1\n00:00:00,100 --> 00:00:00,800\nHallo.\n", encoding="utf-8")
    (here / "jobs.csv").write_text("face,audio\nperson.mp4,speech.wav\n", encoding="utf-8")
    for name in ("videos/reference", "videos/generated", "ours", "theirs", "faces"):
        (here / name).mkdir(parents=True)
        shutil.copy(person, here / name / "one.mp4")
    write_video(
        here / "theirs" / "one.mp4", np.ascontiguousarray(frames[:, ::-1] // 2 + frames // 2), speech_wav
    )
    (here / "split.json").write_text('{"train": "rest"}', encoding="utf-8")
    return here


def run(name: str, folder: Path) -> None:
    (line,) = EXAMPLE.findall(COMMANDS[name].help)
    for long, short in SHORTER.items():
        line = line.replace(long, short)
    words = [sys.executable, "-m", *shlex.split(line)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    made = re.search(r"--out (\S+)", line)
    assert made is None or (folder / made[1]).exists()


@pytest.mark.slow
@needs_grid
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_example_runs(name: str, folder: Path) -> None:
    if name in ELSEWHERE:
        pytest.skip(ELSEWHERE[name])
    if name == "dub" and shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    for earlier in BEFORE.get(name, []):
        run(earlier, folder)
    run(name, folder)
