"""Blind comparisons: what the page's folder gives away (nothing), and what the answers are worth."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import write_video
from PIL import Image
from scipy.stats import binomtest

from moditalker import cli
from moditalker.errors import UserError
from moditalker.evaluate.study.page import QUESTIONS, TIME_BASE, Videos, arrange, make_page
from moditalker.evaluate.study.preference import (
    COLUMNS,
    Answer,
    Key,
    clopper_pearson,
    count,
    preference,
    read_answers,
    read_key,
    sign_test,
)
from moditalker.media import Color, probe, read_clip

NAMES = ("s1_first", "s1_second", "s2_third")
DARK, BRIGHT = 60, 190  # the secret models' pictures


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, speech_wav: Path) -> Path:
    """Folders modelone/ (dark) and modeltwo/ (bright) of three videos, and faces/ (a picture, two videos)."""
    root = tmp_path_factory.mktemp("models")
    for folder, level in (("modelone", DARK), ("modeltwo", BRIGHT), ("faces", 128)):
        (root / folder).mkdir()
        for number, name in enumerate(NAMES):
            frames = np.full((15, 64, 80, 3), level, np.uint8)
            frames[:, :, :, number] += 30
            write_video(
                root / folder / f"{name}.{'mkv' if folder == 'modelone' else 'mp4'}", frames, speech_wav
            )
    (root / "faces" / f"{NAMES[0]}.mp4").unlink()
    Image.new("RGB", (64, 64), "teal").save(root / "faces" / f"{NAMES[0]}.png")
    write_video(root / "modelone" / "alone.mkv", frames, speech_wav)
    return root


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def study_of(page: Path) -> dict:
    text = (page / "index.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="study">(.*?)</script>', text, flags=re.S)
    return json.loads(data)


def test_the_folder_tells_nothing_and_the_key_everything(models: Path, tmp_path: Path) -> None:
    page, key = tmp_path / "page", tmp_path / "page.key.json"
    faces = models / "faces"
    assert make_page(models / "modelone", models / "modeltwo", page, key, faces, seed=3) == []
    told, study = json.loads(key.read_text()), study_of(page)
    assert sorted(trial["name"] for trial in told["trials"]) == list(NAMES)
    for trial, (left, right, _) in zip(told["trials"], study["trials"], strict=True):
        levels = [np.median(read_clip(page / side).frames) for side in (left, right)]
        assert (levels[0] < levels[1]) == (trial["left"] == "a")

    files = [path for path in page.rglob("*") if path.is_file()]
    assert len(files) == 1 + 9
    assert {str(file.relative_to(page)) for file in files} == {
        "index.html", *(name for trial in study["trials"] for name in trial)
    }  # fmt: skip
    assert len({path.stat().st_mtime_ns for path in page.rglob("*")}) == 1
    for path in files:
        content = path.read_bytes()
        for secret in (*NAMES, "modelone", "modeltwo", "c2pa", str(tmp_path)):
            assert secret.encode() not in content, path
        if path.suffix == ".mp4":
            info = probe(path)
            assert info.audio_codec in ("aac", None)
            assert (info.pixel_format, info.width, info.height) == ("yuv420p", 80, 64)
            assert (info.color, info.time_base) == (Color(), TIME_BASE)
    assert study.keys() == {"page", "questions", "trials"}  # and neither seed nor sides
    assert not re.search(r"https?://", (page / "index.html").read_text())


def test_a_seed_gives_the_same_page_and_none_another(models: Path, tmp_path: Path) -> None:
    told = []
    for number, seed in enumerate((5, 5, None, None)):
        key = tmp_path / f"{number}.json"
        make_page(models / "modelone", models / "modeltwo", tmp_path / str(number), key, seed=seed)
        told.append((key.read_text(), study_of(tmp_path / str(number))))
    assert told[0] == told[1]
    assert len({json.loads(key)["seed"] for key, _ in told}) == 3
    assert told[0][1]["questions"] == QUESTIONS


@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_each_side_is_left_equally_often(count: int) -> None:
    videos = [Videos(str(i), Path(), Path()) for i in range(count)]
    many = [arrange(videos, random.Random(seed)) for seed in range(400)]
    for trials in many:
        assert sorted(int(trial.videos.name) for trial in trials) == list(range(count))
        assert abs(2 * sum(trial.a_is_left for trial in trials) - count) <= count % 2
    # Neither the place in the order nor the name tells the side.
    for of in (lambda trials: trials[0], lambda trials: next(t for t in trials if t.videos.name == "0")):
        assert sum(of(trials).a_is_left for trials in many) == pytest.approx(200, abs=50)


def test_pages_that_cannot_be_made_get_their_sentence(models: Path, tmp_path: Path) -> None:
    a, b = models / "modelone", models / "modeltwo"
    bad = tmp_path / "bad"
    bad.mkdir()
    page, key = tmp_path / "page", tmp_path / "key.json"

    def refused(sentence: str, *arguments: object) -> None:
        with pytest.raises(UserError, match=sentence):
            make_page(*arguments)  # type: ignore[arg-type]
        assert not page.exists()
        assert not key.exists()
        assert not list(tmp_path.glob(".page*"))

    refused("no such folder", a, tmp_path / "nothing", page, key)
    refused(r"\(0\) have no name in common", a, bad, page, key)
    refused("in the page's folder", a, b, page, page / "key.json")
    refused(f"no video or picture '{NAMES[0]}'", a, b, page, key, bad)
    write_video(bad / f"{NAMES[0]}.mp4", np.zeros((5, 64, 80, 3), np.uint8))
    refused("has no sound", a, bad, page, key)
    (bad / f"{NAMES[0]}.mp4").write_bytes(b"not a video")
    refused("cannot be read", a, bad, page, key)
    (bad / f"{NAMES[0]}.mp4").unlink()
    (bad / f"{NAMES[0]}.png").write_bytes(b"not a picture")
    for name in NAMES[1:]:
        Image.new("RGB", (20, 20)).save(bad / f"{name}.png")
    refused("no picture", a, b, page, key, bad)  # found while the page is being written
    with pytest.raises(UserError, match="already there"):
        make_page(a, b, bad, key)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        make_page(a, b, tmp_path / "file" / "page", key)


def test_what_tells_the_models_apart_is_said(
    models: Path, tmp_path: Path, speech_wav: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_video(other / f"{NAMES[0]}.mp4", np.zeros((50, 32, 40, 3), np.uint8), speech_wav)
    assert run("evaluate", "study", "make", models / "modelone", other, "--out", tmp_path / "page") == 0
    said = capsys.readouterr()
    assert f"{NAMES[0]}: 80x64 and 40x32 pixels" in said.err
    assert "s long" in said.err
    assert str(tmp_path / "page.key.json") in said.out


def test_the_sign_test_is_scipys() -> None:
    for n in (1, 2, 5, 16, 40, 301):
        for wins in range(0, n + 1, max(1, n // 16)):
            theirs = binomtest(wins, n)
            assert sign_test(wins, n - wins) == pytest.approx(theirs.pvalue, rel=1e-9)
            interval = theirs.proportion_ci(0.95, "exact")
            low, high = clopper_pearson(wins, n)
            assert (low, high) == pytest.approx((interval.low, interval.high), abs=1e-9)
            assert (low <= 0.5 <= high) == (theirs.pvalue > 0.05)
    none = preference(0, 0, 4)
    assert (none.rate, none.low, none.high, none.p, none.ties) == (None, 0, 1, 1, 4)
    assert sign_test(30_000, 30_000) == 1
    assert 0 <= sign_test(60_000, 0) < 1e-300
    assert clopper_pearson(60_000, 60_000)[1] == 1


KEY = Key("abc", "one", "two", {"sync": "?", "real": "?"}, ["a", "b", "b"])
HEADER = ",".join(COLUMNS)


def test_votes_are_answers_trials_or_people() -> None:
    votes = {("x", 1): 1, ("x", 2): 1, ("x", 3): -1, ("y", 1): -1, ("y", 2): 1, ("y", 3): -1}
    answers = [Answer(rater, trial, "sync", vote) for (rater, trial), vote in votes.items()]
    by = {per: count(answers, KEY, per)["sync"] for per in ("answer", "trial", "rater")}
    assert [(one.wins, one.losses, one.ties) for one in by.values()] == [(3, 3, 0), (1, 1, 1), (1, 1, 0)]
    assert count(answers, KEY)["real"] == preference(0, 0)


def test_answers_are_read_by_the_key(tmp_path: Path) -> None:
    one, two = tmp_path / "1.csv", tmp_path / "2.csv"
    one.write_text(f"\ufeff{HEADER}\r\nabc,x,1,sync,left,t\r\nabc,x,2,sync,left,t\r\n\r\n", encoding="utf-8")
    two.write_text(f'{HEADER}\n"abc",y,3,real,right,\nabc,y,1,real,no difference,\n')
    votes = [(answer.rater, answer.trial, answer.vote) for answer in read_answers([one, two], KEY)]
    assert votes == [("x", 1, 1), ("x", 2, -1), ("y", 3, 1), ("y", 1, 0)]
    with pytest.raises(UserError, match=r"1\.csv, line 2: 'x' answered sync of trial 1 before"):
        read_answers([one, one], KEY)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("abc,x,1,sync,left", "6 values are expected"),
        ("abc,x,1,sync,left,t,more", "6 values are expected"),
        ("other,x,1,sync,left,t", "'other'; the key is of the page abc"),
        ("abc,,1,sync,left,t", "''; rater"),
        ("abc,x,0,sync,left,t", "'0'; trial is a whole number from 1 to 3"),
        ("abc,x,4,sync,left,t", "'4'; trial"),
        ("abc,x,1e0,sync,left,t", "'1e0'; trial"),
        ("abc,x,²,sync,left,t", r"'\xb2'; trial"),
        (f"abc,x,{'9' * 5000},sync,left,t", "999...; trial"),
        ("abc,x,1,price,left,t", "'price'; question is one of sync, real"),
        ("abc,x,1,sync,LEFT,t", "'LEFT'; choice is one of left, right, no difference"),
        ("abc,x,1,sync,\x1b[2J\x07,t", r"'\x1b[2J\x07'; choice"),
        ('abc,x,1,sync,"left,t', "this is not CSV"),
        (f"abc,x,1,sync,{'l' * 200_000},t", "this is not CSV"),
    ],
)
def test_a_wrong_row_gets_its_sentence(tmp_path: Path, row: str, sentence: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(f"{HEADER}\nabc,x,2,sync,left,t\n{row}\n", encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_answers([path], KEY)
    assert re.match(rf".*bad\.csv, line \d+: .*{re.escape(sentence)}", str(refused.value))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "line 1: []; the header is"),
        (b"a,b\n", "the header is"),
        (HEADER.replace(",", ";").encode(), "the header is"),
        (HEADER.encode(), "holds no answer"),
        (b"\xff\xfe\x00\x00", "as text"),
        (b"\x89PNG\x00", "as text"),
    ],
)
def test_wrong_files_of_answers(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(sentence)):
        read_answers([tmp_path / "bad.csv"], KEY)
    with pytest.raises(UserError, match="as text"):
        read_answers([tmp_path / "nothing.csv"], KEY)


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, '{"format": "x", "version": 1}'])
def test_wrong_keys(tmp_path: Path, content: str) -> None:
    (tmp_path / "key.json").write_text(content)
    with pytest.raises(UserError, match="is not the key of a page"):
        read_key(tmp_path / "key.json")


def test_the_command_prints_a_table_and_json(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, key = tmp_path / "page", tmp_path / "secret.json"
    made = (
        "evaluate",
        "study",
        "make",
        models / "modelone",
        models / "modeltwo",
        "-o",
        page,
        "--key",
        key,
        "--seed",
        1,
    )
    assert run(*made) == 0
    told = json.loads(key.read_text())
    lines = [HEADER]
    for rater in "xyz":
        for number, trial in enumerate(told["trials"], 1):  # all prefer the first model's lips, but once
            side = "left" if (trial["left"] == "a") != ((rater, number) == ("z", 3)) else "right"
            lines.append(f"{told['page']},{rater},{number},sync,{side},2026-01-01T00:00:00Z")
            lines.append(f"{told['page']},{rater},{number},real,no difference,2026-01-01T00:00:00Z")
    (tmp_path / "answers.csv").write_text("\n".join(lines))
    capsys.readouterr()
    assert run("evaluate", "study", "score", key, tmp_path / "answers.csv") == 0
    said = capsys.readouterr().out
    assert "18 answers of 3 people on 3 pairs" in said
    assert re.search(r"sync +8 +1 +0 +89 % +52 to 100 % +0\.039", said)
    assert re.search(r"real +0 +0 +9 +– +0 to 100 % +1\.000", said)
    assert run("evaluate", "study", "score", key, tmp_path / "answers.csv", "--json", "--per", "trial") == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["questions"]["sync"] | {"text": ""} == {
        "text": "", "wins": 3, "losses": 0, "ties": 0, "rate": 1.0, "high": 1.0,
        "low": pytest.approx(0.025 ** (1 / 3)), "p": 0.25,
    }  # fmt: skip
    assert (tree["raters"], tree["trials"], tree["per"]) == (3, 3, "trial")
    (tmp_path / "answers.csv").write_text("x")
    assert run("evaluate", "study", "score", key, tmp_path / "answers.csv") == 2
