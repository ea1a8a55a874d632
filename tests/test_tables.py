"""Tables of a benchmark: the paper's layout, people, and what is left open."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from standins import SHARED

from moditalker.evaluate.run import Results, Settings
from moditalker.evaluate.tables import (
    COMPARABLE,
    PAPER,
    PAPER_COLUMNS,
    TABLE_1,
    Scored,
    by_person,
    medians,
    page,
    table_1,
)


def video(face: str, values: dict[str, float | None], speech: str | None = None) -> dict[str, object]:
    """A record of a self-driven video, or of one that another's speech drives."""
    files = (
        {"reference": f"d/{face}/a.mpg", "face": None, "speech": None}
        if speech is None
        else {"reference": None, "face": f"d/{face}/a.mpg", "speech": f"d/{speech}/b.mpg"}
    )
    return {"name": face, "generated": "out/a.mp4", "key": "k", "values": values, **files}


OWN = Results(
    Settings(("psnr_frame", "lip_correlation", "cpbd", "frechet_alexnet")),
    [
        video("s1", {"psnr_frame": 30.0, "lip_correlation": 0.5, "cpbd": 0.3}),
        video("s1", {"psnr_frame": 34.0, "lip_correlation": 0.7, "cpbd": None}),
        video("s2", {"psnr_frame": math.inf, "lip_correlation": 0.9, "cpbd": 0.5}),
        {**video("s3", {}), "values": {}, "name": "nothing"},
        {"name": "broken", "error": "no", "generated": "x", "reference": None, "face": None, "speech": None},
    ],
    {"frechet_alexnet": 1.25},
)
CROSS = Results(
    Settings(("leakage",)),
    [
        video("s1", {"leakage": 0.1}, "s2"),
        video("s2", {"leakage": 0.3}, "s1"),
        video("s3", {"leakage": -0.1}, "s1"),
    ],
    {},
)
ROWS = [Scored("Own speech", OWN, "This model"), Scored("Another's", CROSS)]


def cells(lines: list[str], begin: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(begin)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_1_has_the_papers_columns_and_its_rows_word_for_word() -> None:
    lines = table_1(ROWS)
    assert [column for *_, column in TABLE_1 if column] == list(PAPER_COLUMNS)
    head = cells(lines, "| own speech")
    ours = dict(zip(head, cells(lines, "| This model"), strict=True))
    assert ours["CPBD ↑"] == "0.400 (0.300 to 0.500)"
    assert ours["PSNR, frame ↑"].startswith("∞")
    assert ours["Fréchet distance, AlexNet ↓"] == "1.250"
    assert ours["FID ↓"] == ours["LSE-D ↓"] == ours["CSIM ↑"] == "–"
    paper = dict(zip(head, cells(lines, "| MoDiTalker (paper"), strict=True))
    assert [paper[title] for _, title, column in TABLE_1 if column] == [
        f"{value:.2f}" for value in PAPER["MoDiTalker"]
    ]
    assert paper["Fréchet distance, AlexNet ↓"] == paper["mouth-audio match ↑"] == "–"
    assert not any("Another" in line for line in lines)
    assert sum("quoted" in line for line in lines) == len(PAPER)


@pytest.mark.skipif(
    not (SHARED / "paper.txt").is_file(), reason="the paper's text is not here (MODITALKER_SHARED)"
)
def test_the_papers_numbers_are_those_of_its_text() -> None:
    text = (SHARED / "paper.txt").read_text(encoding="utf-8")
    head = next(i for i, line in enumerate(text.splitlines()) if "FID" in line and "LSE-D" in line)
    table = "\n".join(text.splitlines()[head : head + 10])
    for values in PAPER.values():
        assert all(f"{value:.2f}" in table for value in values if value is not None)


def test_people_are_told_apart_by_face_and_by_voice() -> None:
    assert medians(OWN)["face s1"] == {"lip_correlation": (0.6, 2), "psnr_frame": (32.0, 2), "cpbd": (0.3, 1)}
    assert list(medians(CROSS)) == ["all", "face s1", "face s2", "face s3", "voice s1", "voice s2"]
    assert medians(CROSS)["voice s1"]["leakage"] == (pytest.approx(0.1), 2)
    assert medians(CROSS)["all"]["leakage"] == (0.1, 3)
    lines = by_person(ROWS)
    assert cells(lines, "| videos driven by")[:3] == ["videos driven by", "people", "n"]
    assert cells(lines, "| Own speech | face s1")[2:4] == ["2", "0.600"]
    assert cells(lines, "| Own speech | all")[3] == "0.700 (3)"  # of 4 that were measured
    assert cells(lines, "| Another's | voice s2")[2:] == ["1", "–", "0.100"]


def test_a_page_has_every_table_and_what_is_comparable(tmp_path: Path) -> None:
    text = page(ROWS)
    assert COMPARABLE in text
    for title in ("## Table 1", "## Each person", "## Every metric", "| all videos of a set |"):
        assert title in text
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    for lines in (part.strip().splitlines() for part in tables):
        assert len({line.count("|") for line in lines}) == 1  # every row has all columns
    assert len(tables) == 4
