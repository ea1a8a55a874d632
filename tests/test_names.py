"""Names as long as the system allows, and longer ones."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from moditalker.cli import main
from moditalker.errors import UserError
from moditalker.jobs.files import appearing, shortened, write_whole
from moditalker.media import Frame, VideoWriter, plain_info, probe, remove_parts

LONG = ["k" * 251 + ".mp4", "\u5bb6" * 83 + "kk.mp4", "\U0001f600" * 62 + "kkk.mp4"]  # 255 bytes each


@pytest.mark.parametrize("name", LONG, ids=["ascii", "chinese", "emoji"])
def test_a_video_may_have_the_longest_name(tmp_path: Path, name: str) -> None:
    assert len(name.encode()) == 255
    with VideoWriter(tmp_path / name, plain_info(64, 48)) as writer:
        part = writer._part
        assert len(part.name.encode()) <= 255
        writer.write(Frame(0, Fraction(0), Fraction(1, 25), np.zeros((48, 64, 3), np.uint8)))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    left = tmp_path / part.name
    left.write_bytes(b"of a process that was killed")
    remove_parts(tmp_path / ("k" + name[1:]))
    assert left.exists() == (name[0] != "k")  # parts of another file stay
    remove_parts(tmp_path / name)
    assert not left.exists()


@pytest.mark.parametrize("name", LONG, ids=["ascii", "chinese", "emoji"])
def test_other_files_too(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, b"1")
    with appearing(tmp_path / name) as file:
        file.write(b"2")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_names_that_are_cut_stay_different() -> None:
    one, other = (shortened("k" * 240 + end, 32) for end in "ab")
    assert one != other
    assert len(one) == len(other) == 241 - 32
    assert shortened("k" * 96, 32) == "k" * 96
    assert len(shortened("k" * 97, 32)) == 96


def test_a_name_that_is_too_long_gets_its_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], speech_wav: Path
) -> None:
    name = "k" * 252 + ".mp4"
    with pytest.raises(UserError, match="256 bytes is too long"):
        VideoWriter(tmp_path / name, plain_info(64, 48))
    with pytest.raises(UserError, match="256 bytes is too long"):
        probe(tmp_path / name)
    options = {"--face": "a.png", "--audio": str(speech_wav), "--out": "a.mp4", "--report": "a.json"}
    for option in (*options, "--head", "--model", "--weights"):
        words = (options | {option: str(tmp_path / name)}).items()
        with pytest.raises(SystemExit) as left:
            main(["generate", *(word for pair in words for word in pair)])
        assert left.value.code == 2
        errors = capsys.readouterr().err
        assert "256 bytes is too long" in errors
        assert len(errors.splitlines()) == 1


def test_links_in_a_circle_are_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], speech_wav: Path
) -> None:
    loop, table = tmp_path / "loop.png", tmp_path / "lines.csv"
    loop.symlink_to("loop.png")
    table.write_text("start,end,audio\n0,1,loop.png\n")
    out = str(tmp_path / "made.mp4")
    for command in (
        ["generate", str(loop), str(speech_wav), "--out", out],
        ["dub", str(speech_wav), "--table", str(table), "--out", out],
    ):
        with pytest.raises(SystemExit) as left:
            main(command)
        assert left.value.code == 2
        assert capsys.readouterr().err.count("moditalker: ") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines.csv", "loop.png"]
