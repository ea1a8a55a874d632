"""`moditalker adapt` from a video to weights that `generate --weights` takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from standins import ASTRONAUT, needs_grid

from moditalker import cli
from moditalker.weights.files import load_weights


def run(*given: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main([str(part) for part in given])
    return int(left.value.code or 0)


def test_a_picture_is_too_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("adapt", "--face", ASTRONAUT, "--out", tmp_path / "w.safetensors") == 2
    assert "give a longer video" in capsys.readouterr().err
    assert run("adapt", "--face", ASTRONAUT, "--out", tmp_path / "w.pt") == 2
    assert ".safetensors" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "w.safetensors").mkdir()
    assert run("adapt", "--face", "nobody.mp4", "--out", tmp_path / "w.safetensors") == 2
    assert "is a folder" in capsys.readouterr().err  # said before a face is looked at


@pytest.mark.slow
@needs_grid
def test_adapted_weights_make_a_video(tmp_path: Path, speech_wav: Path) -> None:
    from standins import grid_clip

    out, face = tmp_path / "s32.safetensors", grid_clip("s32/bbac1n")
    faces = [part for path in sorted(face.parent.glob("*.mpg"))[:2] for part in ("--face", path)]
    assert run("adapt", *faces, "--out", out, "--minutes", "2") == 0
    figures = load_weights(out)[1]["figures"]
    assert np.isfinite(figures["before"])
    assert figures["after"] >= figures["before"]
    report = tmp_path / "report.json"
    made = ["--out", tmp_path / "v.mp4", "--report", report, "--weights", out]
    assert run("generate", "--face", faces[1], "--audio", speech_wav, *made) == 0
    assert set(json.loads(report.read_text())["weights_sha256"]) == {"atom.safetensors", "s32.safetensors"}
