"""Benchmark: who is paired with whom, what is made, and the tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_video, write_wav
from PIL import Image
from skimage import data
from standins import SHARED, needs_grid, talker

from moditalker import cli
from moditalker.errors import UserError
from moditalker.evaluate import benchmark
from moditalker.evaluate.benchmark import Job, Set
from moditalker.evaluate.competitors import ROWS, Competitor
from moditalker.evaluate.grids import COLUMNS, LOWER, Word
from moditalker.evaluate.pairs import read_pairs
from moditalker.evaluate.run import Settings
from moditalker.media import AudioReader, read_clip


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


def test_more_voices_a_face_are_all_different_and_the_first_people_are_others(tmp_path: Path) -> None:
    clips = benchmark.choose_clips(folder(tmp_path, a=4, b=3, c=1), each=4)
    for count in (1, 2, 4, 7):
        pairs = benchmark.crossed(clips, count)
        assert len(set(pairs)) == len(pairs) == count * len(clips)
        for face in clips:
            voices = [speech for other, speech in pairs if other == face]
            assert face not in voices
            strangers = sum(clip.speaker != face.speaker for clip in clips)
            assert sum(clip.speaker != face.speaker for clip in voices) == min(count, strangers)
    with pytest.raises(UserError, match=r"--pairings 8: with 8 clips a face has at most 7"):
        benchmark.crossed(clips, 8)


def test_other_models_have_rows_of_their_own_and_real_videos_are_measured(tmp_path: Path) -> None:
    clips = benchmark.choose_clips(folder(tmp_path, a=2, b=2))
    plain = benchmark.plan(clips, tmp_path / "out")
    sets = benchmark.plan(clips, tmp_path / "out", 3, [Competitor("Previous clip", "tiny")])
    assert sets.keys() - plain.keys() == {f"{kind}-previous-clip" for kind in ROWS}
    assert all(pair.generated == pair.reference for pair in sets["real"].pairs)
    assert not sets["real"].jobs
    assert len(sets["cross"].pairs) == len(sets["wrong-audio"].pairs) == 3 * len(clips)
    for kind in ("self", "cross"):
        ours, other = sets[kind], sets[f"{kind}-previous-clip"]
        assert [(job.face, job.audio) for job in ours.jobs] == [(job.face, job.audio) for job in other.jobs]
        assert {job.model for job in other.jobs} == {"previous-clip"}
        assert not {job.out for job in ours.jobs} & {job.out for job in other.jobs}
    methods = [one.method for one in sets.values() if one.method]
    assert methods[:2] == ["Real video", "This model"]
    assert methods[-1] == "Previous clip"


def test_sets_are_chosen_and_real_landmarks_take_from_frames_that_are_away(tmp_path: Path) -> None:
    clips = benchmark.choose_clips(folder(tmp_path, a=2, b=2))
    sets = benchmark.plan(clips, tmp_path / "out", 1, [Competitor("Mine", "tiny")], 2.0, 1.5)
    for name, one in sets.items():
        assert {job.seconds for job in one.jobs} <= {2.0}
        assert {job.away for job in one.jobs} <= ({1.5} if name.startswith("landmarks") else {0.0})
    assert "1.5 s away" in sets["landmarks-mine"].title
    assert list(benchmark.choose_sets(sets, "cross, real")) == ["real", "cross"]  # in their own order
    assert benchmark.choose_sets(sets, "all") == sets
    with pytest.raises(UserError, match=r"--sets reel: not known; there are real, self, .*landmarks-mine"):
        benchmark.choose_sets(sets, "reel")
    with pytest.raises(UserError, match="at least one"):
        benchmark.choose_sets(sets, " ,")


def test_a_split_chooses(tmp_path: Path) -> None:
    data, split = folder(tmp_path, a=2, b=2), tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["a/c0.mpg"], "val": ["a/c1.mpg", "b/c0.mpg", "../b/c1.mpg"]}))
    names = [clip.name for clip in benchmark.choose_clips(data, split)]
    assert names == ["a_c1", "b_c0"]  # nothing outside the folder
    with pytest.raises(UserError, match="at least 2"):
        benchmark.choose_clips(data, split, "train")
    split.write_text(json.dumps({"val": ["a/"], "train": "rest"}))
    assert [clip.name for clip in benchmark.choose_clips(data, split)] == ["a_c0", "a_c1"]
    assert [clip.name for clip in benchmark.choose_clips(data, split, "train")] == ["b_c0", "b_c1"]
    split.write_text("[]")
    with pytest.raises(UserError, match="not a split"):
        benchmark.choose_clips(data, split)


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
    expected = whole.atom.first_estimate(speech, torch.zeros(1, 16, 204))
    torch.testing.assert_close(simple.atom(*given), expected)
    assert not torch.allclose(whole.atom(*given), expected)


@pytest.fixture
def portraits(tmp_path: Path, speech_wav: Path) -> Path:
    """A folder of two people with a clip each, whose pictures drift; no corpus is needed."""
    portrait = data.astronaut()[0:240, 100:340]
    frames = np.stack([np.roll(portrait, i // 4, axis=1) for i in range(20)])
    sound = write_wav(tmp_path / "sound.wav", AudioReader(speech_wav).read(0.8))
    for person, shown in (("a", frames), ("b", np.ascontiguousarray(frames[:, :, ::-1]))):
        (tmp_path / "data" / person).mkdir(parents=True)
        write_video(tmp_path / "data" / person / "c.mkv", shown, sound)
    return tmp_path / "data"


@pytest.mark.slow
def test_a_competitors_videos_are_made_by_its_settings(
    tmp_path: Path, portraits: Path, shipped: Path
) -> None:
    """More than one clip of 16 frames, so that what the next one starts from shows."""
    out, other = tmp_path / "out", Competitor("previous", str(shipped), ("mtov.anchor=previous",))
    sets = benchmark.plan(benchmark.choose_clips(portraits), out, 1, [other])
    two = {name: sets[name] for name in ("self", "self-previous")}
    first = {name: replace(one, jobs=one.jobs[:1]) for name, one in two.items()}
    assert benchmark.make(first, str(shipped), others=[other]) == {}
    ours, theirs = (read_clip(one.jobs[0].out).frames.astype(int) for one in first.values())
    assert len(ours) == len(theirs) == 20
    difference = np.abs(ours - theirs).max((1, 2, 3))
    assert difference[:10].max() < difference[-4:].min()
    wrong = Competitor("wrong", str(tmp_path / "nothing"))
    job = Job(portraits, portraits, out / "x.mp4", "wrong")
    with pytest.raises(UserError, match=r"^wrong: weights .* do not exist"):
        benchmark.make({"x": Set("x", [], [job])}, str(shipped), others=[wrong])


@pytest.mark.slow
def test_videos_are_as_long_as_is_asked_and_a_silence_takes_the_sounds_place(
    tmp_path: Path, portraits: Path, shipped: Path
) -> None:
    clips = benchmark.choose_clips(portraits)
    sets = benchmark.plan(clips, tmp_path / "out", seconds=0.64)
    some = {name: replace(sets[name], jobs=sets[name].jobs[:1]) for name in ("landmarks", "silence")}
    assert benchmark.make(some, str(shipped)) == {}
    made = {name: read_clip(one.jobs[0].out) for name, one in some.items()}
    assert [len(clip.frames) for clip in made.values()] == [16, 16]
    assert np.abs(made["landmarks"].audio).max() > 0.01 > np.abs(made["silence"].audio).max()
    (tmp_path / "c.mkv").symlink_to(clips[0].path)
    few = Job(clips[0].path, tmp_path / "c.mkv", tmp_path / "out" / "x.mp4", away=-1.0)
    failures = benchmark.make({"x": Set("x", [], [few])}, str(shipped))
    assert "away = -1" in failures[str(few.out)]


@pytest.mark.slow
def test_a_line_a_set_says_what_was_found_and_how_long_it_will_take(
    tmp_path: Path, portraits: Path, shipped: Path
) -> None:
    sets = benchmark.plan(benchmark.choose_clips(portraits), tmp_path)
    some, lines = {name: sets[name] for name in ("real", "cross-source")}, []
    folders = {name: tmp_path / name for name in some}
    settings = Settings(("mouth_detail", "lip_correlation"), benchmark.SECONDS)
    for count in (2, 0):  # nothing is left for a second run
        assert benchmark.run(some, folders, settings, str(shipped), say=lines.append) == {}
        assert len(lines) == count
        first, *_ = [*lines, ""]
        lines.clear()
        if count:
            assert first.startswith("real: 2 videos; medians: mouth_detail 1.000, lip_correlation 1.000; 0:")
            assert first.endswith("left")


@pytest.mark.slow
def test_one_command_from_portraits_to_tables(tmp_path: Path, portraits: Path, shipped: Path) -> None:
    arguments = ["evaluate", "benchmark", "--data", str(portraits), "--out", str(tmp_path / "out")]
    arguments += ["--metrics", "psnr,psnr_frame,leakage,drift", "--model", str(shipped)]
    arguments += ["--also", f"previous clip={shipped},mtov.anchor=previous"]
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert not left.value.code
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "| previous clip |" in text
    assert "quoted, not measured" in text
    tree = json.loads((tmp_path / "out" / "benchmark.json").read_text())["sets"]
    assert tree["real"]["psnr"]["mean"] == "inf"
    assert all(tree[name]["people"]["face a"] for name in tree)
    assert all((tmp_path / "out" / f"{kind}.png").is_file() for kind in ("self", "cross"))
    assert tree["self-previous-clip"]["psnr"]["videos"] == 2
    voices = [pair.speech for pair in read_pairs(tmp_path / "out" / "cross.jsonl")]
    assert voices == [portraits / person / "c.mkv" for person in ("b", "a")]


@pytest.mark.slow
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
    arguments = ["evaluate", "benchmark", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    arguments += ["--also", f"previous clip={shipped},mtov.anchor=previous"]
    arguments += ["--alignments", str(words)] if words.is_dir() else []
    for _ in range(2):  # the second run makes nothing
        with pytest.raises(SystemExit) as left:
            cli.main([*arguments, "--metrics", metrics, "--model", str(shipped)])
        assert not left.value.code
    assert all((tmp_path / "out" / f"{kind}.png").stat().st_size > 50_000 for kind in ("self", "cross"))
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "quoted, not measured" in text
    tree = json.loads((tmp_path / "out" / "benchmark.json").read_text())["sets"]
    assert tree["landmarks"]["psnr"]["videos"] == 2
    assert tree["self-previous-clip"]["psnr"]["videos"] == 2
    assert tree["real"]["psnr"]["mean"] == "inf"
    assert tree["cross"]["people"]["voice s32"]["leakage"][1] == 1
    assert tree["cross-source"]["leakage"]["mean"] > tree["cross"]["leakage"]["mean"]
