"""Benchmark: who is paired with whom, what is made, and the tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_video
from PIL import Image
from skimage import data
from standins import SHARED, needs_grid, talker

from moditalker import benchmark, cli
from moditalker.errors import UserError
from moditalker.evaluate.grids import COLUMNS, LOWER, Word
from moditalker.evaluate.pairs import read_pairs


def folder(tmp_path: Path, **people: int) -> Path:
    for person, count in people.items():
        for number in range(count):
            path = tmp_path / person / f"c{number}.mpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path


def test_faces_speak_with_another_persons_voice(tmp_path: Path) -> None:
    clips = benchmark.choose_clips(folder(tmp_path, a=5, b=3, c=1), each=3)
    assert [clip.name for clip in clips] == ["a_c0", "a_c1", "a_c2", "b_c0", "b_c1", "b_c2", "c_c0"]
    pairs = benchmark.crossed(clips)
    assert [face for face, _ in pairs] == clips
    assert all(face.speaker != speech.speaker for face, speech in pairs)
    alone = benchmark.choose_clips(folder(tmp_path / "one", d=3))
    assert all(face != speech for face, speech in benchmark.crossed(alone))
    assert benchmark.crossed(clips) == pairs


def test_a_split_chooses(tmp_path: Path) -> None:
    data, split = folder(tmp_path, a=2, b=2), tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["a/c0.mpg"], "val": ["a/c1.mpg", "b/c0.mpg", "../b/c1.mpg"]}))
    names = [clip.name for clip in benchmark.choose_clips(data, split)]
    assert names == ["a_c1", "b_c0", "b_c1"]  # of a path in the split, only the last two names count
    with pytest.raises(UserError, match="at least 2"):
        benchmark.choose_clips(data, split, "train")
    with pytest.raises(UserError, match="not a split"):
        benchmark.choose_clips(data, split, "test")


def test_manifests_are_what_evaluate_reads(tmp_path: Path) -> None:
    clips = benchmark.choose_clips(folder(tmp_path, a=2, b=2))
    sets = benchmark.plan(clips, tmp_path / "out")
    (tmp_path / "out").mkdir()
    for name, path in benchmark.write_manifests(sets, tmp_path / "out").items():
        assert [pair.name for pair in read_pairs(path)] == [pair.name for pair in sets[name].pairs]
    assert all(pair.reference is None and pair.face and pair.speech for pair in sets["cross"].pairs)
    assert all(pair.generated == pair.face for pair in sets["cross-source"].pairs)


def test_a_linear_atom_is_its_first_estimate() -> None:
    whole = talker()
    whole.atom.out.weight.data.normal_()
    simple = benchmark.linear(whole)
    rng = np.random.default_rng(0)
    speech = torch.from_numpy(rng.normal(size=(1, 32, whole.config.speech.width))).float()
    given = torch.randn(1, 16, 204), torch.tensor([999]), speech, torch.zeros(1, 204)
    assert whole.atom.first_estimate is not None
    expected = whole.atom.first_estimate(speech)
    torch.testing.assert_close(simple.atom(*given), expected)
    assert not torch.allclose(whole.atom(*given), expected)


def test_grids_show_each_face_and_leave_out_what_cannot_be_read(tmp_path: Path) -> None:
    portrait = data.astronaut()[0:240, 100:340]
    frames = np.stack([np.roll(portrait, i // 4, axis=1) for i in range(10)])
    real = tmp_path / "real.mkv"
    write_video(real, frames)
    for person in "abcd":
        (tmp_path / person).mkdir()
        for number in range(2):
            (tmp_path / person / f"c{number}.mkv").symlink_to(real)
    clips = benchmark.choose_clips(tmp_path, each=2)
    sets = benchmark.plan([clip for clip in clips if clip.speaker != "d"], tmp_path / "out")
    for job in (job for one in sets.values() for job in one.jobs):
        job.out.parent.mkdir(parents=True, exist_ok=True)
        job.out.symlink_to(real)
    sets["self"].pairs[2].generated.unlink()  # the first of b
    words = {clips[0].path: [Word("bin", 0.0, 0.1), Word("blue", 0.1, 0.4)]}
    failures = benchmark.write_grids(sets, tmp_path / "out", words)
    assert list(failures) == ["self.png, b_c0"]
    assert "no such file" in failures["self.png, b_c0"]
    height = LOWER.size - LOWER.region_top
    for kind, rows in (("self", 2 * 4), ("cross", 3 * 4)):
        with Image.open(tmp_path / "out" / f"{kind}.png") as picture:
            assert picture.width > COLUMNS * LOWER.size
            assert 0 < picture.height - rows * height < 120 * rows


@pytest.mark.slow
@needs_grid
def test_one_command_from_clips_to_tables(tmp_path: Path, shipped: Path) -> None:
    from standins import grid_clip

    for name in ("s1/bbaf2n", "s32/bbac1n"):
        target = tmp_path / "data" / f"{name}.mpg"
        target.parent.mkdir(parents=True)
        target.symlink_to(grid_clip(name))
    words = SHARED / "data" / "grid" / "alignments"
    metrics = "psnr,lip_correlation,leakage,seam"
    arguments = ["benchmark", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    arguments += ["--alignments", str(words)] if words.is_dir() else []
    for _ in range(2):  # the second run makes nothing
        with pytest.raises(SystemExit) as left:
            cli.main([*arguments, "--metrics", metrics, "--preset", str(shipped)])
        assert not left.value.code
    assert all((tmp_path / "out" / f"{kind}.png").stat().st_size > 50_000 for kind in ("self", "cross"))
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "quoted, not measured" in text
    tree = json.loads((tmp_path / "out" / "benchmark.json").read_text())["sets"]
    assert tree["landmarks"]["psnr"]["videos"] == 2
    assert tree["cross-source"]["leakage"]["mean"] > tree["cross"]["leakage"]["mean"]
