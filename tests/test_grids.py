"""Grids: which words, which moments, and that each cell shows the right video's mouth at the right time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from standins import SHARED, grid_clip, needs_grid

from moditalker.errors import UserError
from moditalker.evaluate.grids import (
    COLUMNS,
    LOWER,
    Moment,
    Row,
    Word,
    choose_moments,
    compare,
    draw_grids,
    find_words,
    read_words,
)
from moditalker.evaluate.observe import Observed
from moditalker.features.face.shape import default_model
from moditalker.geometry.points import MOUTH, eye_distance

FPS = 25.0


def clip(colour: int, count: int = 25, scale: float = 40.0) -> Observed:
    """Dark frames with a square of a colour, brighter by 2 a frame, around the mouth of an average face."""
    face = default_model().mean * [1, -1, 1] * scale + [120, 110, 0]
    landmarks = np.repeat(face[None], count, axis=0).astype(np.float32)
    x, y = face[MOUTH, :2].mean(0).astype(int)
    frames = np.zeros((count, 240, 240, 3), np.uint8)
    for t in range(count):
        frames[t, y - 8 : y + 8, x - 8 : x + 8] = colour + 2 * t
    return Observed(frames, FPS, landmarks, np.zeros(0, np.float32))


def test_words_of_grid_and_of_audacity(tmp_path: Path) -> None:
    (tmp_path / "c.align").write_text("0 23750 sil\n23750 29500 bin\n29500 34000 blue\n34000 74500 sp\n")
    (tmp_path / "c.txt").write_text("\ufeff0.95\t1.18\tbin\n1.18\t1.36\tblue sky\n\n1.36\t2.98\t\n")
    assert read_words(tmp_path / "c.align") == [Word("bin", 0.95, 1.18), Word("blue", 1.18, 1.36)]
    assert read_words(tmp_path / "c.txt") == [Word("bin", 0.95, 1.18), Word("blue sky", 1.18, 1.36)]


@pytest.mark.parametrize(
    "line", ["word", "1 word", "2 1 word", "-1 1 word", "0 nan word", "0 inf word", "a b c"]
)
def test_words_that_are_wrong(tmp_path: Path, line: str) -> None:
    path = tmp_path / "c.align"
    path.write_text(f"0 1 sil\n{line}\n")
    with pytest.raises(UserError, match=re.escape(f"c.align, line 2: {line!r}; start, end and word")):
        read_words(path)


def test_files_of_words_that_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "c.align").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "c.lab").touch()
    for name, sentence in (("c.align", "as text"), ("c.txt", "as text"), ("c.lab", "endings")):
        with pytest.raises(UserError, match=sentence):
            read_words(tmp_path / name)


def test_words_are_found_by_person_and_clip(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c0.txt").write_text("0 1 hello")
    clips = [Path("data/a/c0.mpg"), Path("data/a/c1.mpg"), Path("data/b/c0.mpg")]
    assert find_words(tmp_path, clips) == {clips[0]: [Word("hello", 0, 1)]}
    with pytest.raises(UserError, match=re.escape("such as b/c0.align")):
        find_words(tmp_path, clips[2:])


def test_a_moment_is_the_frame_of_its_word_that_says_most() -> None:
    opening = np.full(50, 0.2) + 0.001 * np.arange(50) % 0.01
    opening[7], opening[20], opening[23] = 0.6, 0.19, 0.21  # wide open; the most shut of all; nearly usual
    words = [Word("ah", 0.2, 0.4), Word("m", 0.72, 0.96), Word("late", 1.96, 2.4), Word("never", 5, 6)]
    moments = choose_moments(words, opening, FPS)
    assert [moment.word for moment in moments] == ["ah", "m", "late"]
    assert [round(moment.time * FPS) for moment in moments] == [7, 20, 49]
    opening[:10] = np.nan
    assert round(choose_moments(words, opening, FPS)[1].time * FPS) == 20


def test_without_words_there_are_times_and_many_words_are_thinned_out() -> None:
    opening = np.random.default_rng(0).random(100)
    moments = choose_moments([], opening, FPS)
    assert len(moments) == COLUMNS
    assert {moment.word for moment in moments} == {""}
    assert [int(moment.time / 4 * COLUMNS) for moment in moments] == list(range(COLUMNS))
    words = [Word(str(i), i * 0.1, i * 0.1 + 0.1) for i in range(30)]
    chosen = [moment.word for moment in choose_moments(words, opening, FPS)]
    assert len(chosen) == COLUMNS
    assert (chosen[0], chosen[-1]) == ("0", "29")


def test_each_cell_shows_its_video_at_its_moment() -> None:
    real, made = clip(20), clip(120, count=20)
    words = [Word("one", 0.2, 0.24), Word("two", 0.6, 0.64), Word("beyond", 0.84, 0.9)]
    grid = compare("title", real, words, [Row("real", real, real), Row("made", made, real)])
    assert grid.moments == [
        Moment(0.2, "one"),
        Moment(0.6, "two"),
    ]  # what only one video shows is not looked at
    for (_, cells), colour in zip(grid.rows, (20, 120), strict=True):
        assert cells.shape == (2, LOWER.size - LOWER.region_top, LOWER.size, 3)
        brightest = cells.max((1, 2, 3)).astype(int)
        assert np.abs(brightest - [colour + 2 * 5, colour + 2 * 15]).max() <= 1
    rows, columns = np.nonzero(grid.rows[0][1][0].max(-1) > 10)
    size = 16 * LOWER.eye_distance / eye_distance(real.landmarks)[0]  # the square, nothing distorted
    assert np.ptp(rows) == pytest.approx(size, abs=3)
    assert np.ptp(columns) == pytest.approx(size, abs=3)
    assert columns.mean() == pytest.approx(LOWER.size / 2, abs=3)


def test_faces_of_other_sizes_are_shown_at_one_size() -> None:
    small, large = clip(100, scale=30), clip(100, scale=40)
    grid = compare("", small, [], [Row("small", small, small), Row("large", large, large)])
    areas = [(cells[0].max(-1) > 50).sum() for _, cells in grid.rows]
    assert areas[0] / areas[1] == pytest.approx((40 / 30) ** 2, rel=0.1)


def test_a_picture_has_all_cells_and_long_labels_fit() -> None:
    one = clip(100)
    words = [Word("w" * 60, 0.0, 0.2), Word("ok", 0.2, 0.4)]
    many = compare("a", one, [], [Row("real", one, one), Row("a method with quite a long name", one, one)])
    few = compare("b", one, words, [Row("real", one, one)])
    picture = np.asarray(draw_grids([many, few]))
    cells = (picture == many.rows[0][1][0].max()).all(-1).any(1)
    assert np.flatnonzero(np.diff(np.r_[0, cells, 0]) == 1).size >= 3  # three rows of mouths
    assert (picture[:, -12:] == 255).all()  # nothing runs out at the right
    assert (picture[-12:] == 255).all()


@needs_grid
def test_words_of_a_real_clip() -> None:
    folder, path = SHARED / "data" / "grid" / "alignments", grid_clip("s1/bbaf2n")
    if not folder.is_dir():
        pytest.skip("the GRID alignments are not here")
    assert [word.text for word in find_words(folder, [path])[path]] == [
        "bin",
        "blue",
        "at",
        "f",
        "two",
        "now",
    ]
