"""Names as long as the system allows, and longer ones."""

from __future__ import annotations

import errno
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from moditalker.cli import main
from moditalker.cli.common import write_json
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


def leave(path: Path) -> None:
    """An unfinished file of a process that was killed a minute ago."""
    path.write_bytes(b"of a process that was killed")
    os.utime(path, (time.time() - 60,) * 2)


def test_a_video_that_is_made_again_takes_away_what_a_killed_process_left(tmp_path: Path) -> None:
    path, info = tmp_path / "a.mp4", plain_info(64, 48)
    frame = Frame(0, Fraction(0), Fraction(1, 25), np.zeros((48, 64, 3), np.uint8))
    for name in (".a.7-0.part.mp4", ".a.7-0.sealed.mp4", ".b.7-0.part.mp4"):
        leave(tmp_path / name)
    with VideoWriter(path, info) as other:
        leave(sealing := other._sealed)  # of one that is at work, and was slow
        with VideoWriter(path, info) as writer:
            here = {one.name for one in tmp_path.iterdir()}
            assert here == {other._part.name, sealing.name, writer._part.name, ".b.7-0.part.mp4"}
            writer.write(frame)
        other.write(frame)
        sealing.unlink()
    assert {one.name for one in tmp_path.iterdir()} == {"a.mp4", ".b.7-0.part.mp4"}


def test_no_file_stays_open_after_a_video(tmp_path: Path) -> None:
    if not (handles := Path("/proc/self/fd")).exists():
        pytest.skip("no list of open files here")
    before = len(list(handles.iterdir()))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", plain_info(64, 48)):
            raise KeyboardInterrupt
        with VideoWriter(tmp_path / "a.mp4", plain_info(64, 48)) as writer:
            writer.write(Frame(0, Fraction(0), Fraction(1, 25), np.zeros((48, 64, 3), np.uint8)))
    assert len(list(handles.iterdir())) == before


def test_a_file_that_is_written_again_takes_away_what_a_killed_process_left(tmp_path: Path) -> None:
    left = (".a.json.abcdef12.part", ".b.json.abcdef12.part")
    for name in left:
        leave(tmp_path / name)
    with appearing(tmp_path / "a.json") as other:
        other.write(b"1")
        write_whole(tmp_path / "a.json", b"2")
        assert (tmp_path / "a.json").read_bytes() == b"2"
    assert (tmp_path / "a.json").read_bytes() == b"1"
    assert {one.name for one in tmp_path.iterdir()} == {"a.json", left[1]}


def test_many_that_write_one_file_at_once_leave_each_other_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(partial(write_whole, path), [b"a" * n for n in range(200)]):
            pass
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_a_report_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path, pipe = tmp_path / "report.json", tmp_path / "pipe"
    write_json(path, {"a": 1}, "the report")
    (link := tmp_path / "link.json").symlink_to(path)
    with monkeypatch.context() as patch:
        patch.setattr("moditalker.jobs.files.os.fsync", full)
        with pytest.raises(UserError, match="the report cannot be written there"):
            write_json(path, {"a": 2}, "the report")
    assert json.loads(path.read_text()) == {"a": 1}
    write_json(link, {"a": 3}, "the report")
    assert link.is_symlink()
    assert json.loads(path.read_text()) == {"a": 3}
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(pipe.read_text)
        write_json(pipe, {"a": 4}, "the report")
        assert json.loads(told.result()) == {"a": 4}
    assert pipe.is_fifo()
    assert {one.name for one in tmp_path.iterdir()} == {"report.json", "link.json", "pipe"}


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
