"""A dubbed film is the film: frames, times, tracks; but for the mouth where the new speech is."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import write_wav
from standins import ASTRONAUT, grid_clip, needs_grid, talker

from moditalker import MoDiTalker
from moditalker.cli import main
from moditalker.errors import UserError
from moditalker.media import AudioReader, Frame, Part, VideoReader, VideoWriter, plain_info, read_clip, tts
from moditalker.talker.lines import read_lines, seconds

FPS, FRAMES, RATE = 25, 150, 48_000
SUBTITLES = "1\n00:00:00,500 --> 00:00:01,500\nFirst\n\n2\n00:00:04,000 --> 00:00:05,000\nSecond\n"


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s: a drifting face, irregular times, two sound tracks, a subtitle track, two chapters."""
    from skimage import io

    folder = tmp_path_factory.mktemp("film")
    picture = io.imread(ASTRONAUT)[0:320, 60:380]
    path, texts = folder / "film.mkv", folder / "texts.srt"
    texts.write_text(SUBTITLES)
    base = Fraction(1, 1000)
    tone = np.sin(np.arange(6 * RATE) * 440 * 2 * np.pi / RATE, dtype=np.float32)[None]
    with av.open(str(path), "w") as container, av.open(str(texts)) as words:
        video: Any = container.add_stream("libx264rgb", rate=FPS, options={"qp": "0", "g": "30"})
        video.width, video.height, video.pix_fmt = 256, 256, "rgb24"
        video.time_base = video.codec_context.time_base = base
        sounds: list[Any] = [container.add_stream("flac", rate=RATE) for _ in range(2)]
        for sound, language in zip(sounds, ("eng", "fra"), strict=True):
            sound.layout, sound.metadata["language"] = "mono", language
        subtitles = container.add_stream_from_template(words.streams[0])
        marks = [
            {
                "id": i + 1,
                "start": 3000 * i,
                "end": 3000 * i + 3000,
                "time_base": base,
                "metadata": {"title": t},
            }
            for i, t in enumerate(("One", "Two"))
        ]
        container.set_chapters(marks)
        for i in range(FRAMES):
            shift = i // 4
            frame = np.ascontiguousarray(picture[shift : shift + 256, 20 : 20 + 256])
            native = av.VideoFrame.from_ndarray(frame, format="rgb24")
            native.pts, native.time_base = 40 * i + 7 * (i % 2), base
            container.mux(video.encode(native))
        container.mux(video.encode(None))
        for number, sound in enumerate(sounds):
            for start in range(0, 6 * RATE, 4800):
                piece = (tone[:, start : start + 4800] * 0.1 * (number + 1) * 32767).astype(np.int16)
                chunk = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
                chunk.sample_rate, chunk.pts, chunk.time_base = RATE, start, Fraction(1, RATE)
                container.mux(sound.encode(chunk))
            container.mux(sound.encode(None))
        for packet in words.demux(words.streams[0]):
            if packet.pts is not None:
                packet.stream = subtitles
                container.mux(packet)
    return path


def tracks(path: Path) -> dict[str, Any]:
    """What a file holds, with each stream's packets."""
    with av.open(str(path)) as container:
        found: dict[str, Any] = {"chapters": [], "streams": []}
        for mark in container.chapters():
            begin, end = (float(mark[key] * mark["time_base"]) for key in ("start", "end"))
            found["chapters"].append((begin, end, mark["metadata"]["title"]))
        for stream in container.streams:
            found["streams"].append((stream.type, stream.metadata.get("language"), []))
        for packet in container.demux():
            if packet.size:
                stamp = float(packet.pts * packet.time_base)
                found["streams"][packet.stream.index][2].append((round(stamp, 3), bytes(packet)))
    return found


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory, speech_wav: Path) -> Path:
    folder = tmp_path_factory.mktemp("table")
    write_wav(folder / "line.wav", AudioReader(speech_wav).read())
    (folder / "lines.csv").write_text("start;audio;face\n0:03,6;line.wav;0\n1,0;line.wav;\n")
    return folder / "lines.csv"


def test_all_else_stays(tmp_path, film, table):
    lines = read_lines(table)
    assert [float(line.start) for line in lines] == [1.0, 3.6]
    video = talker().dub(film, lines=lines)
    result = video.save(out := tmp_path / "out.mkv", lossless=True)
    before, after = list(VideoReader(film)), list(VideoReader(out))
    assert [frame.time for frame in before] == [frame.time for frame in after]
    assert len(before) == result["frames"] == FRAMES
    changed = [not np.array_equal(a.image, b.image) for a, b in zip(before, after, strict=True)]
    for frame, differs in zip(before, changed, strict=True):
        inside = any(start < float(frame.time) < start + 1.02 for start in (1.0, 3.6))
        assert inside or not differs, float(frame.time)
    assert sum(changed) > 30
    old, new = tracks(film), tracks(out)
    assert old["chapters"] == new["chapters"] == [(0, 3, "One"), (3, 6, "Two")]
    kinds = [(kind, language) for kind, language, _ in new["streams"]]
    assert kinds == [("video", None), ("audio", None), ("audio", "eng"), ("audio", "fra"), ("subtitle", None)]
    assert new["streams"][2:] == old["streams"][1:]  # packets and their times
    sound = AudioReader(out, 1).read()
    level = [float(np.abs(sound[int(t * 16_000) :][:8000]).max()) for t in (0.2, 2.5, 5.0)]
    assert level == pytest.approx([0.1] * 3, abs=0.02)
    spoken = AudioReader(table.parent / "line.wav").read()
    there = sound[16_000 : 16_000 + len(spoken)]
    assert np.corrcoef(spoken, there)[0, 1] > 0.95  # the tone is gone there


@pytest.mark.slow
def test_an_mp4_too_and_a_shut_mouth(tmp_path, film, speech_wav):
    video = talker().dub(film, speech_wav, offset=2.0, silence="shut", original="duck")
    result = video.save(out := tmp_path / "out.mp4")
    assert result["frames"] == FRAMES
    assert VideoReader(out).times()[-1] == pytest.approx(VideoReader(film).times()[-1], abs=0.05)
    assert "left out, as .mp4 cannot hold it: subtitle" in " ".join(result["notes"])
    assert [kind for kind, _, _ in tracks(out)["streams"] if kind != "data"] == [
        "video",
        "audio",
        "audio",
        "audio",
    ]
    ((part, _),) = video.parts
    assert (part.first, part.last) == (0, FRAMES)


@pytest.mark.slow
def test_the_rest_is_kept(tmp_path, film, speech_wav):
    options = {"start": 2.0, "end": 2.6, "keep_rest": True}
    video = talker().generate(film, speech_wav, **options)
    images = [image for _, image in video]
    changed = [
        i for i, (a, b) in enumerate(zip(VideoReader(film), images, strict=True)) if (a.image != b).any()
    ]
    assert 50 <= min(changed) <= max(changed) < 65
    assert "0.42 s longer than its place" in " ".join(video.notes)
    part = talker().generate(film, speech_wav, start=2.0, end=2.6, extend="none", offset=0.2)
    frames = [frame for frame, _ in part]
    assert len(frames) == 15
    assert frames[0].time == 0
    assert part.face.seconds == pytest.approx(1.22, abs=0.001)


def test_parts_of_a_video(film):
    reader = VideoReader(film)
    whole = list(reader)
    for start, end in ((0, 1), (1.3, 2.6), (4, None)):
        part = Part(reader, Fraction(start), None if end is None else Fraction(end))
        wanted = [frame for frame in whole if start <= frame.time < (end or 9)]
        assert [frame.time + part.start for frame in part] == [frame.time for frame in wanted]
        for own, frame in zip(part, wanted, strict=True):
            assert np.array_equal(own.image, frame.image)
        assert [frame.index for frame in reversed(part)] == list(range(len(wanted)))[::-1]
    with pytest.raises(UserError, match=r"no frame is shown from 7 s to its end; the video lasts 6\.0"):
        Part(reader, Fraction(7))


def test_times():
    wanted = {"1": 1, "0:02.5": 2.5, "01:00:00,250": 3600.25}
    assert {text: float(seconds(text)) for text in wanted} == wanted
    for text in ("", "-1", "1e9", "nan", "1:2:3:4", "9" * 9):
        with pytest.raises(ValueError, match=f"^{text}$"):
            seconds(text)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "x", "one of these endings"),
        ("a.csv", "start,text\n", "there is no line"),
        ("a.csv", "start,words\n1,a\n", "column 'words'"),
        ("a.csv", "start,text,audio\n1,a,b.wav\n", "line 2: a line has a text or an audio"),
        ("a.csv", "start,text\nsoon,a\n", "'soon' is no time"),
        ("a.csv", "start,end,text\n2,1,a\n", "'1' is no time"),
        ("a.csv", "start,audio\n1,../b.wav\n", "not in the table's folder"),
        ("a.csv", "start,audio\n1,/etc/passwd\n", "not in the table's folder"),
        ("a.csv", "start,text,face\n1,a,left\n", "choose left"),
        ("a.csv", "start,text\n1," + "a" * 5001 + "\n", "at most 5000"),
        ("a.srt", "hello\n", "'hello' has no time"),
        ("a.srt", "1\n00:00:01,000 --> soon\na\n", "'soon' is no time"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\na\n\n" * 10_001, "at most 10000"),
        ("a.csv", "start\0", "not a text file"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says):
        read_lines(tmp_path / name)


def test_subtitles(tmp_path):
    text = "\ufeff1\r\n00:00:01,000 --> 00:00:02,500 X1:1\r\n<i>One</i>\r\n{\\an8}two\r\n\r\n\r\n"
    text += "2\r\n0:0:3.5 --> 0:0:4\r\n-\r\n"
    (tmp_path / "a.srt").write_bytes(text.encode())
    one, two = read_lines(tmp_path / "a.srt")
    assert (float(one.start), float(one.end), one.text) == (1.0, 2.5, "One two")
    assert (float(two.start), two.text) == (3.5, "-")


@pytest.mark.skipif(not tts.available(), reason="no espeak-ng on this system")
def test_the_command(tmp_path, film, shipped, capsys, monkeypatch):
    monkeypatch.setenv("MODITALKER_WEIGHTS", str(tmp_path))
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHallo.\n")
    text = (tmp_path / "a.srt").read_text()
    (tmp_path / "b.srt").write_text(f"{text}\n2\n00:00:01,500 --> 00:00:03,000\nNein.\n")
    (tmp_path / "c.srt").write_text(text.replace("00:00:0", "00:10:0"))
    words = ["dub", str(film), "--out", str(tmp_path / "o.mkv"), "--model", str(shipped)]
    with pytest.raises(SystemExit) as left:
        main([*words, "--srt", str(tmp_path / "a.srt"), "--lang", "de"])
    assert not left.value.code, capsys.readouterr().err
    assert "150 frames" in capsys.readouterr().out
    for more, says in (
        ([], "one of three"),
        (["--text", "a", "--start", "9"], "no speech comes within its 6.0"),
        (["--text", "a", "--start", "2", "--end", "1"], "an end after it"),
        (["--srt", str(tmp_path / "a.srt"), "--offset", "1"], "go without a table"),
        (["--srt", str(tmp_path / "b.srt")], "at 1.00 s overlaps the next one"),
        (["--srt", str(tmp_path / "c.srt")], "begins after the film, which lasts 6.0"),
    ):
        with pytest.raises(SystemExit) as left:
            main([*words, *more])
        assert left.value.code == 2
        assert says in capsys.readouterr().err


@pytest.mark.slow
@needs_grid
def test_five_minutes_of_two_speakers(tmp_path):
    """Two people in turn, 100 shots of 3 s; six lines for them (docs/lab/dub.md)."""
    shots = [read_clip(grid_clip(name), 3.0) for name in ("s1/bbaf2n", "s2/bbaf1n")]
    shape, step = shots[0].frames.shape, Fraction(1, 25)
    sound = np.concatenate([shot.audio[: 3 * 16_000] for shot in shots] * 50)
    with VideoWriter(
        film := tmp_path / "film.mkv",
        plain_info(shape[2], shape[1]),
        write_wav(tmp_path / "film.wav", sound),
        lossless=True,
    ) as writer:
        for i in range(7500):
            writer.write(Frame(i, i * step, step, shots[i // 75 % 2].frames[i % 75]))
    write_wav(tmp_path / "a.wav", shots[1].audio[: 2 * 16_000])
    starts = (10.2, 60.4, 63.2, 150.0, 228.1, 297.3)
    (tmp_path / "a.csv").write_text("start,audio\n" + "".join(f"{start},a.wav\n" for start in starts))
    video = MoDiTalker.from_pretrained("tiny").dub(film, lines=read_lines(tmp_path / "a.csv"))
    result = video.save(out := tmp_path / "out.mkv", lossless=True)
    changed = 0
    for before, after in zip(VideoReader(film, planes=False), VideoReader(out, planes=False), strict=True):
        assert before.time == after.time
        inside = any(start <= before.time < start + 2 for start in starts)
        same = np.array_equal(before.image, after.image)
        assert inside or same
        changed += not same
    needed, memory = result["seconds"]["total"], result["peak_rss_bytes"] >> 20
    print(f"{changed} frames changed, made in {needed} s, {memory} MiB")
    assert changed > 250
    old, new = tracks(film)["streams"], tracks(out)["streams"]
    assert new[2] == old[1]
    assert [stamp for stamp, _ in new[0][2]] == [stamp for stamp, _ in old[0][2]]
