"""Sizes, codecs, bits and kinds of written files; what is lost is said."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from standins import ASTRONAUT, talker

from moditalker.cli import main
from moditalker.errors import UserError
from moditalker.media import Frame, VideoReader, VideoWriter, can_encode, fitted, plain_info, read_clip
from moditalker.media.pixels import planes_of

STEP = Fraction(1, 25)


def pictures(count: int = 8, step: int = 2, width: int = 128, height: int = 96) -> np.ndarray:
    """A soft moving gradient, (count, H, W, 3)."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack(
        [np.stack([x + step * i, y + 40, 200 - x], -1).clip(0, 255).astype(np.uint8) for i in range(count)]
    )


def written(path: Path, frames: np.ndarray, **options: object) -> list[str]:
    info = plain_info(frames.shape[2], frames.shape[1])
    with VideoWriter(path, info, **options) as writer:  # type: ignore[arg-type]
        for i, image in enumerate(frames):
            writer.write(Frame(i, i * STEP, STEP, image))
    return writer.notes


def stream_of(path: Path) -> tuple[str, str, int, int]:
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        return codec.name, str(codec.pix_fmt), codec.width, codec.height


@pytest.mark.parametrize(
    ("size", "given", "becomes"),
    [
        ("720p", (1920, 1080), (1280, 720)),
        ("720p", (1080, 1920), (720, 1280)),
        ("640x480", (1920, 1080), (640, 360)),
        ("100x480", (333, 333), (100, 100)),
        ("98p", (100, 200), (98, 196)),
    ],
)
def test_sizes_keep_the_shape(size, given, becomes):
    assert fitted(size, *given) == becomes


@pytest.mark.parametrize(
    "size", ["", "720", "x", "0p", "15p", "9999p", "640x", "-1x5", "640x480x2", "640X480"]
)
def test_sizes_that_are_none(size):
    with pytest.raises(UserError, match="720p"):
        fitted(size, 640, 480)


def test_a_smaller_picture_shows_the_same(tmp_path):
    frames = pictures()
    notes = written(tmp_path / "o.mp4", frames, size="64x64", quality=1.0)
    assert notes == ["o.mp4: 128x96 becomes 64x48, as asked."]
    assert stream_of(tmp_path / "o.mp4") == ("h264", "yuv420p", 64, 48)
    small = np.stack([np.asarray(Image.fromarray(f).resize((64, 48), Image.Resampling.BOX)) for f in frames])
    assert np.abs(read_clip(tmp_path / "o.mp4").frames.astype(int) - small).mean() < 3


@pytest.mark.parametrize("codec", ["hevc", "vp9", "av1"])
def test_codecs(tmp_path, codec):
    names = {"hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
    if not can_encode(names[codec]):
        with pytest.raises(UserError, match="no encoder"):
            written(tmp_path / "o.mp4", pictures(), codec=codec)
        return
    frames = pictures()
    written(tmp_path / "o.mp4", frames, codec=codec, quality=10.0)
    assert stream_of(tmp_path / "o.mp4")[1:] == ("yuv420p", 128, 96)
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == codec
        assert codec != "hevc" or container.streams.video[0].codec_context.codec_tag == "hvc1"
    clip = read_clip(tmp_path / "o.mp4")
    assert clip.frames.shape == frames.shape
    assert np.abs(clip.frames.astype(int) - frames).mean() < 4
    reader = VideoReader(tmp_path / "o.mp4")
    assert [frame.time for frame in reader] == [i * STEP for i in range(len(frames))]


def test_ten_bits_of_four_two_two_are_kept(tmp_path):
    """Frames of the source's own samples, one of them painted on."""
    path = tmp_path / "deep.mkv"
    ramp = (np.arange(96)[:, None] * 8 + np.arange(128)[None] * 1 + 64).astype(np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv422p10le"
        for i in range(3):
            native = av.VideoFrame(128, 96, "yuv422p10le")
            luma, *chroma = planes_of(native)
            luma[:] = ramp
            for plane in chroma:
                plane[:] = 512 + np.arange(64)[None]
            native.pts, native.time_base = i, STEP
            container.mux(stream.encode(native))
        container.mux(stream.encode(None))
    reader = VideoReader(path, "yuv422p10le")
    out = tmp_path / "o.mkv"
    with VideoWriter(out, reader.info, pixel_format="yuv422p10", quality=0.0) as writer:
        for frame in reader:
            image = frame.image.copy()
            if frame.index == 1:
                image[10:30, 10:30] = 128
            writer.write(frame, image)
    assert writer.notes == []
    assert stream_of(out)[:2] == ("h264", "yuv422p10le")
    with av.open(str(out)) as container:
        first, second, _ = [planes_of(native) for native in container.decode(video=0)]
    assert np.abs(first[0].astype(int) - ramp).max() <= 8  # of 1023, after the encoder
    assert np.abs(first[0].astype(int) - ramp).mean() < 1.5
    assert np.abs(first[1].astype(int) - 512 - np.arange(64)).mean() < 1.5
    assert len(np.unique(first[0] % 4)) == 4
    assert np.abs(second[0][12:28, 12:28].astype(int) - 4 * (16 + 128 * 219 / 255)).max() < 12
    plain = VideoReader(path)
    with VideoWriter(out, plain.info) as writer:
        writer.write(next(iter(plain)))
    assert "10 bits a sample and 4:2:2 become 8 bits and 4:2:0" in writer.notes[0]


def test_a_deep_video_speaks_and_stays_deep(tmp_path, face_video, speech_wav):
    """Outside the mouth, 10 bits of 4:2:2 in are 10 bits of 4:2:2 out."""
    path = tmp_path / "deep.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=20)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv422p10le"
        for frame in VideoReader(face_video):
            native = av.VideoFrame.from_ndarray(frame.image, format="rgb24").reformat(format="yuv422p10le")
            planes_of(native)[0][:] += np.arange(256, dtype=np.uint16) % 4
            native.pts, native.time_base = frame.index, Fraction(1, 20)
            container.mux(stream.encode(native))
        container.mux(stream.encode(None))
    video = talker().generate(path, speech_wav, pixel_format="yuv422p10", quality=0.0)
    video.save(out := tmp_path / "o.mkv")
    with av.open(str(path)) as source, av.open(str(out)) as made:
        for before, after in zip(source.decode(video=0), made.decode(video=0), strict=True):
            own, new = (planes_of(native)[0][:40].astype(int) for native in (before, after))
            assert after.format.name == "yuv422p10le"
            assert np.abs(own - new).mean() < 1.5  # of 1023


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_moving_pictures(tmp_path, ending, speech_wav):
    frames, path = pictures(step=15), tmp_path / f"o{ending}"
    notes = written(path, frames, size="64x64", audio=speech_wav)
    assert any("has no sound; it is left out" in note for note in notes)
    with Image.open(path) as picture:
        assert (picture.n_frames, picture.size, picture.info["loop"]) == (len(frames), (64, 48), 0)
        shown = []
        for i in range(picture.n_frames):
            picture.seek(i)
            shown.append(np.asarray(picture.convert("RGB")))
            assert picture.info["duration"] == 40
    small = np.stack([np.asarray(Image.fromarray(f).resize((64, 48), Image.Resampling.BOX)) for f in frames])
    assert np.abs(np.stack(shown).astype(int) - small).mean() < 6


def test_what_does_not_go_together(tmp_path):
    for ending, options, says in (
        (".mp4", {"codec": "mpeg1"}, "one of h264, hevc, vp9, av1"),
        (".mp4", {"pixel_format": "rgb"}, "one of yuv420p"),
        (".mp4", {"codec": "av1", "pixel_format": "yuv422p10"}, "here; take hevc"),
        (".mov", {"codec": "vp9"}, ".mov holds no vp9"),
        (".mp4", {"size": "64p", "lossless": True}, "lossless goes without"),
        (".gif", {"codec": "hevc"}, "go with a video"),
    ):
        with pytest.raises(UserError, match=says):
            written(tmp_path / f"o{ending}", pictures(1), **options)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path, speech_wav, shipped, capsys):
    inputs = ["generate", str(ASTRONAUT), str(speech_wav), "--model", str(shipped)]
    for name, more in (("o.webp", ["--size", "128p"]), ("o.mp4", ["--size", "128p", "--codec", "hevc"])):
        with pytest.raises(SystemExit) as left:
            main([*inputs, "--out", str(tmp_path / name), *more])
        printed = capsys.readouterr()
        assert not left.value.code, printed.err
        assert "128x128" in printed.out
        assert "512x512 becomes 128x128" in printed.err
        assert ("the manifest is left out: .webp" in printed.err) == (name == "o.webp")
    with pytest.raises(SystemExit) as left:
        main([*inputs, "--out", str(tmp_path / "o.mp4"), "--size", "big"])
    assert left.value.code == 2
    assert "size 'big': 720p" in capsys.readouterr().err
