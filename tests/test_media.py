"""Media: frame counts, time stamps, pixels, sound packets, memory and broken files, on clips made here."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import wave
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import av
import av.filter
import numpy as np
import psutil
import pytest
from PIL import Image, ImageCms, features

from moditalker.errors import UserError
from moditalker.media import (
    AudioReader,
    Frame,
    Picture,
    VideoReader,
    VideoWriter,
    open_source,
    plain_info,
    plan_frames,
    probe,
    read_clip,
    read_picture,
    sources,
)
from moditalker.media.fields import progressive
from moditalker.media.pictures import LEVEL_PIXELS
from moditalker.media.pixels import planes_of
from moditalker.media.sound import _mix

BASE = Fraction(1, 90_000)


def pattern(count: int, width: int = 64, height: int = 48) -> Iterator[np.ndarray]:
    """Smooth coloured frames, each different from all others."""
    y, x = np.mgrid[:height, :width]
    for i in range(count):
        red = 40 + 2 * i % 180
        yield np.stack([np.full_like(x, red), 60 + 100 * x // width, 80 + 90 * y // height], -1).astype(
            np.uint8
        )


def make(
    path: Path,
    frames: list[np.ndarray] | None = None,
    *,
    fps: Fraction | int = 25,
    stamps: list[int] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: int = 0,
    audio: str | None = None,
    rate: int = 44_100,
    layout: str = "stereo",
    seconds: float = 1.0,
    audio_start: float = 0.0,
    context: dict[str, Any] | None = None,
) -> Path:
    """Write a test clip with PyAV alone (independent of VideoWriter)."""
    base = 1 / Fraction(fps) if codec.startswith("mpeg") else BASE
    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as out:
        video = sound = None
        if frames is not None:
            height, width = frames[0].shape[:2]
            video = out.add_stream(codec, rate=fps, width=width, height=height, options=options or {})
            video.pix_fmt, video.time_base = pixels, base
            video.codec_context.time_base = base
            for name, value in (context or {}).items():
                setattr(video.codec_context, name, value)
            if rotation:
                video.set_display_rotation(rotation)
        if audio is not None:
            sound = out.add_stream(audio, rate=rate, options={"strict": "experimental"})  # for Vorbis
            sound.layout = layout
        if video is not None and frames is not None:
            step = round(1 / Fraction(fps) / base)
            for i, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
                frame.pts, frame.time_base = (stamps[i] if stamps else i * step), base
                frame.duration = step
                out.mux(video.encode(frame))
            out.mux(video.encode(None))
        if sound is not None:
            resampler = av.AudioResampler(sound.format, layout, rate)
            channels = sound.layout.nb_channels
            tone = tone_at(rate, seconds)
            start = round(audio_start * rate)
            for first in range(0, len(tone), rate // 10):
                samples = np.repeat(tone[None, first : first + rate // 10], channels, 0)
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
                frame.sample_rate = rate
                for piece in resampler.resample(frame):
                    piece.pts, piece.time_base, start = start, Fraction(1, rate), start + piece.samples
                    out.mux(sound.encode(piece))
            out.mux(sound.encode(None))
    return path


def tone_at(rate: int, seconds: float) -> np.ndarray:
    """A quiet tone with one loud click in the middle."""
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    middle = len(tone) // 2
    tone[middle : middle + max(1, rate // 2000)] = 0.9
    return tone.astype(np.float32)


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def plain_frames(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """Frames as PyAV decodes them without our reader."""
    with av.open(str(path)) as container:
        return [(f.pts * f.time_base, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def remuxed(source: Path, path: Path, change: Callable[[str, Fraction], Fraction | None]) -> Path:
    """The same packets at other times: change takes a stream's type and a time; None leaves a packet out."""
    with av.open(str(source)) as container, av.open(str(path), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in container.streams}
        for packet in container.demux():
            if packet.dts is None or packet.pts is None or packet.time_base is None:
                continue
            time = packet.pts * packet.time_base
            if (new := change(packet.stream.type, time)) is not None:
                shift = round((new - time) / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return path


def click(path: Path) -> float:
    """Second of the loudest sample."""
    return float(np.abs(AudioReader(path).read()).argmax()) / 16_000


def copied(source: Path, path: Path) -> VideoWriter:
    """The video for as long as its own sound, with it."""
    reader = VideoReader(source)
    with VideoWriter(path, reader.info, source) as writer:
        for frame in plan_frames(reader, AudioReader(source).seconds):
            writer.write(frame)
    return writer


# ------------------------------------------------------------------------------------------ reading video


@pytest.mark.parametrize("fps", [25, Fraction(30_000, 1001), Fraction(24_000, 1001), 60, 12])
def test_frame_rates(tmp_path: Path, fps: Fraction | int) -> None:
    path = make(tmp_path / "a.mp4", list(pattern(20)), fps=fps)
    reader = VideoReader(path)
    assert abs(reader.info.fps - fps) < Fraction(1, 50)
    assert reader.info.frames == 20
    frames = list(reader)
    step = round(1 / Fraction(fps) / BASE)
    assert [frame.time for frame in frames] == [i * step * BASE for i in range(20)]
    assert {frame.duration for frame in frames} == {step * BASE}
    for frame, (_, image) in zip(frames, plain_frames(path), strict=True):
        assert np.array_equal(frame.image, image)
    assert reader.notes == []


def test_variable_frame_rate_survives_reading_and_writing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stamps = np.concatenate([[0], np.cumsum(rng.integers(1500, 9000, 29))]).tolist()
    path = make(tmp_path / "a.mp4", list(pattern(30)), stamps=stamps)
    reader = VideoReader(path)
    frames = list(reader)
    assert [frame.time for frame in frames] == [stamp * BASE for stamp in stamps]
    with VideoWriter(tmp_path / "b.mp4", reader.info) as writer:
        for frame in frames:
            writer.write(frame)
    again = list(VideoReader(tmp_path / "b.mp4"))
    assert [(f.time, f.duration) for f in again] == [(f.time, f.duration) for f in frames]


def test_rotation_tag(tmp_path: Path) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32] = (250, 20, 20)
    for degrees in (90, 180, -90):
        path = make(tmp_path / f"{degrees}.mp4", [image] * 3, rotation=degrees)
        reader = VideoReader(path)
        frame = next(iter(reader))
        wanted = np.rot90(image, degrees // 90)
        assert frame.image.shape == wanted.shape == (reader.info.height, reader.info.width, 3)
        assert np.abs(frame.image.astype(int) - wanted).mean() < 6
        with VideoWriter(tmp_path / "out.mp4", reader.info) as writer:
            for frame in reader:
                writer.write(frame)
        (_, seen), *_ = plain_frames(tmp_path / "out.mp4")  # no tag is left, the pixels stand upright
        assert np.abs(seen.astype(int) - wanted).mean() < 6


def test_ten_bits(tmp_path: Path) -> None:
    image = next(pattern(1))
    path = make(tmp_path / "a.mkv", [image] * 2, codec="ffv1", pixels="yuv420p10le")
    seen = next(iter(VideoReader(path))).image
    assert np.abs(seen.astype(int) - image).mean() < 2


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_tone_mapped(tmp_path: Path, transfer: int) -> None:
    grey = np.repeat(np.linspace(10, 245, 64).astype(np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    tags = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9}
    path = make(tmp_path / "a.mkv", [grey] * 2, codec="ffv1", pixels="yuv420p10le", context=tags)
    reader = VideoReader(path)
    row = next(iter(reader)).image[20].astype(int)
    assert (np.diff(row[:, 0]) >= 0).all()  # brighter stays brighter
    assert np.ptp(row, axis=1).max() <= 2  # grey stays grey
    assert row[-1, 0] >= 250
    assert row[0, 0] < 30
    diffuse_white = {16: 0.58, 18: 0.75}[transfer]  # code value of 203 cd/m2
    at_white = row[np.abs(grey[20, :, 0] / 255 - diffuse_white).argmin(), 0]
    assert 220 <= at_white <= 250
    assert "HDR" in reader.notes[0]
    assert reader.info.color.transfer == 1


def test_alpha_of_a_video_is_shown_on_white(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as out:
        stream = out.add_stream("png", rate=25, width=64, height=48)
        stream.pix_fmt = "rgba"
        image = np.zeros((48, 64, 4), np.uint8)
        image[:, 32:] = (200, 100, 50, 255)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgba")))
        out.mux(stream.encode(None))
    (frame,) = VideoReader(tmp_path / "a.mov")
    assert frame.image[0, 0].tolist() == [255, 255, 255]
    assert frame.image[0, 63].tolist() == [200, 100, 50]
    assert frame.yuv is None


@pytest.mark.parametrize("suffix", [".webp", ".png", ".avif"])
def test_moving_pictures_are_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 0)  # chunks of 8 frames
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    images = [Image.fromarray(image) for image in pattern(20)]
    durations = [40] * 18 + [120, 80]
    options = {"save_all": True, "append_images": images[1:], "duration": durations}
    options |= {"lossless": True} if suffix == ".webp" else {}
    images[0].save(tmp_path / f"a{suffix}", **options)
    reader = open_source(tmp_path / f"a{suffix}")
    assert isinstance(reader, VideoReader)
    assert (reader.info.kind, reader.info.fps, reader.info.frames) == ("video", 25, 20)
    frames = list(reader)
    assert [frame.time for frame in frames] == [Fraction(sum(durations[:i]), 1000) for i in range(20)]
    assert frames[-1].duration == Fraction(8, 100)
    for frame, image in zip(frames, images, strict=True):
        assert np.abs(frame.image.astype(int) - np.asarray(image)).max() <= (12 if suffix == ".avif" else 0)
    for frame, again in zip(reversed(frames), reversed(reader), strict=True):
        assert frame.time == again.time
        assert np.array_equal(frame.image, again.image)
    assert reader.notes == []


def test_a_moving_picture_that_is_cut_off(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in range(8)]
    images[0].save(tmp_path / "a.png", save_all=True, append_images=images[1:], duration=100)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    reader = VideoReader(tmp_path / "b.png")
    assert 1 <= len(list(reader)) < 8
    assert len(reader.notes) == 1


def marked(frames: list[Any]) -> list[Any]:
    """Frames with the mark that they hold two fields, the upper one first."""
    graph = av.filter.Graph()
    first = frames[0]
    size = {"width": first.width, "height": first.height, "format": first.format.name}
    source = graph.add_buffer(**size, time_base=Fraction(1, 25))
    setter, sink = graph.add("setparams", "field_mode=tff"), graph.add("buffersink")
    source.link_to(setter)
    setter.link_to(sink)
    graph.configure()
    result = []
    for frame in frames:
        graph.push(frame)
        result.append(graph.pull())
    return result


def woven_frames(count: int) -> list[Any]:
    """A bar that moves between the two fields of a frame."""
    frames = []
    for number in range(count):
        image = np.full((64, 128, 3), 60, np.uint8)
        image[:, 8 + 3 * number :][:, :30] = 200
        image[1::2] = 60
        image[1::2, 8 + 3 * number + 2 :][:, :30] = 200  # half a frame later
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, 25)
        frames.append(frame)
    return frames


def combs(image: np.ndarray) -> float:
    """How much every second line differs from its neighbours."""
    return float(np.abs(np.diff(image[..., 1].astype(int), 2, axis=0)).mean())


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mpg", "mpeg2video"), (".mkv", "mpeg2video"), (".mp4", "libx264")]
)
def test_interlaced_frames_are_deinterlaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, codec: str
) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 0)  # chunks of 8 frames
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options={"flags": "+ildct+ilme", "g": "6"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 128, 64, "yuv420p", 4_000_000
        for frame in marked(woven_frames(30)):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    woven, reader = plain_frames(path), VideoReader(path)
    frames = list(reader)
    assert [frame.time for frame in frames] == [time - woven[0][0] for time, _ in woven]
    assert abs(frames[-1].duration - Fraction(1, 25)) < Fraction(1, 1000)
    assert sum("deinterlaced" in note for note in reader.notes) == 1
    for frame, (_, image) in zip(frames, woven, strict=True):
        assert combs(frame.image) < 0.6 * combs(image)
    for frame, again in zip(reversed(frames), reversed(reader), strict=True):
        assert frame.index == again.index
        assert frame.time == again.time
        assert np.array_equal(frame.image, again.image)


def test_only_interlaced_frames_are_touched() -> None:
    frames = woven_frames(12)
    mixed = [*frames[:4], *marked(frames[4:8]), *frames[8:]]
    found: list[bool] = []
    seen = list(progressive(iter(mixed), Fraction(1, 25), lambda: found.append(True)))
    whole = list(progressive(iter(marked(frames)), Fraction(1, 25), lambda: None))
    assert found == [True]
    assert [frame.pts for frame in seen] == list(range(12))
    for number, (frame, native, other) in enumerate(zip(seen, mixed, whole, strict=True)):
        expected = other if 4 <= number < 8 else native
        assert np.array_equal(frame.to_ndarray(), expected.to_ndarray())


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_alpha_that_the_usual_decoder_leaves_out(tmp_path: Path, codec: str) -> None:
    with av.open(str(tmp_path / "a.webm"), "w") as out:
        stream = out.add_stream(codec, rate=25, options={"auto-alt-ref": "0", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        for shade in range(12):
            image = np.zeros((48, 64, 4), np.uint8)
            image[..., 2], image[..., 1] = 255, 10 * shade
            image[:, 32:, 3] = 255  # the left half is not there
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgba")))
        out.mux(stream.encode(None))
    reader = VideoReader(tmp_path / "a.webm")
    frames = list(reader)
    assert [frame.time for frame in frames] == [Fraction(n, 25) for n in range(12)]
    for number, frame in enumerate(frames):
        assert frame.image[:, :24].min() > 245
        assert np.abs(frame.image[:, 40:].astype(int) - [0, 10 * number, 255]).mean() < 8
    assert any("on white" in note for note in reader.notes)
    for frame, image in zip(reversed(frames), reversed(reader), strict=True):
        assert np.array_equal(frame.image, image.image)


def mux(path: Path, codec: str, picture: bytes, count: int) -> None:
    """Write a video of one coded picture of 64x48, shown `count` times."""
    with av.open(str(path), "w") as out:
        stream = out.add_mux_stream(codec, rate=25, width=64, height=48)
        for i in range(count):
            packet = av.Packet(picture)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, Fraction(1, 25)
            out.mux(packet)


def test_side_data_without_a_name_is_no_obstacle(tmp_path: Path) -> None:
    """Motion JPEG whose pictures have EXIF, a kind of side data that PyAV does not know."""
    exif, image = Image.Exif(), io.BytesIO()
    exif[0x010F] = "camera"
    Image.fromarray(next(pattern(1))).save(image, "JPEG", exif=exif)
    mux(tmp_path / "a.avi", "mjpeg", image.getvalue(), 5)
    assert len(list(VideoReader(tmp_path / "a.avi"))) == 5


def test_a_colour_profile_in_pictures_of_a_video_is_no_crash(tmp_path: Path) -> None:
    """PNG as a video's codec, each picture with a colour profile; in a process that may crash."""
    profile, image = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), io.BytesIO()
    Image.fromarray(next(pattern(1))).save(image, "PNG", icc_profile=profile)
    mux(tmp_path / "a.mov", "png", image.getvalue(), 3)
    code = "import sys; from moditalker.media import VideoReader; print(len(list(VideoReader(sys.argv[1]))))"
    words = [sys.executable, "-c", code, str(tmp_path / "a.mov")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (999, 2), (2**31 - 1, 64)])
def test_a_rate_that_no_sound_has_is_a_sentence(tmp_path: Path, rate: int, channels: int) -> None:
    form = struct.pack("<HHIIHH", 1, channels, rate, 0, 4, 32)
    data = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", 256_000) + bytes(256_000)
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(data)) + data)
    with pytest.raises(UserError, match=r"a\.wav"):
        list(AudioReader(tmp_path / "a.wav"))


def test_a_file_of_empty_parts_is_not_followed_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A WAV whose sound is followed by a GiB of zeros: a hundred million parts of no length."""
    monkeypatch.setattr("moditalker.media.files.OPEN_SECONDS", 0.5)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(32_000))
    os.truncate(tmp_path / "a.wav", 1 << 30)  # sparse: it takes no room
    begun = monotonic()
    assert probe(tmp_path / "a.wav").kind == "audio"
    assert monotonic() - begun < 10


def test_a_file_that_takes_too_long_to_open_is_a_sentence(
    face_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moditalker.media.files.OPEN_SECONDS", 1e-9)
    with pytest.raises(UserError, match="not found out in"):
        probe(face_video)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "mpg", "open"])
def test_backwards_is_forwards_reversed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 0)  # chunks of 8 frames
    options = {"g": "12", "bf": "2"}
    if kind == "mpg":
        path = make(tmp_path / "a.mpg", list(pattern(60)), codec="mpeg1video", options=options)
    else:
        options |= {"x264-params": "open-gop=1"} if kind == "open" else {}
        path = make(tmp_path / f"a.{'mp4' if kind == 'open' else kind}", list(pattern(60)), options=options)
    reader = VideoReader(path)
    forward = list(reader)
    backward = list(reversed(reader))
    assert [frame.index for frame in backward] == list(range(len(forward)))[::-1]
    for a, b in zip(forward, backward[::-1], strict=True):
        assert (a.index, a.time, a.duration) == (b.index, b.time, b.duration)
        assert np.array_equal(a.image, b.image)
        assert a.yuv is not None
        assert b.yuv is not None
        assert all(np.array_equal(p, q) for p, q in zip(a.yuv, b.yuv, strict=True))


def test_memory_does_not_grow_with_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 4 << 20)
    images = list(pattern(125, 320, 240))
    path = make(tmp_path / "a.mp4", images, options={"g": "50", "preset": "ultrafast"})
    del images
    reader = VideoReader(path)
    process = psutil.Process()

    def peak(seconds: int) -> float:
        top = 0
        for i, _ in enumerate(plan_frames(reader, Fraction(seconds))):
            if i % 50 == 0:
                top = max(top, process.memory_info().rss)
        return top / 2**20

    peak(6)
    short = peak(12)
    assert peak(60) <= short + 25


# ------------------------------------------------------------------------------------------- planning time


def test_plan_gives_the_frames_of_the_speech(tmp_path: Path) -> None:
    reader = VideoReader(make(tmp_path / "a.mp4", list(pattern(50))))
    for seconds in (Fraction(1), Fraction(3, 2), Fraction(101, 100), Fraction(4, 100)):
        frames = list(plan_frames(reader, seconds))
        assert len(frames) == -(-seconds * 25 // 1)
        assert [frame.index for frame in frames] == list(range(len(frames)))
    for seconds in (Fraction(191, 100), Fraction(2), Fraction(209, 100)):  # the padding of audio codecs
        assert len(list(plan_frames(reader, seconds))) == 50


def test_plan_extends_the_source(tmp_path: Path) -> None:
    reader = VideoReader(make(tmp_path / "a.mp4", list(pattern(5)), fps=10))

    def plan(extend: str) -> list[Frame]:
        return list(plan_frames(reader, Fraction(16, 10), extend))

    frames = plan("pingpong")
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]
    assert [frame.time for frame in frames] == [Fraction(i, 10) for i in range(16)]
    first = {frame.index: frame.image for frame in frames[:5]}
    assert all(np.array_equal(frame.image, first[frame.index]) for frame in frames)
    assert [frame.index for frame in plan("loop")] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]
    assert [frame.index for frame in plan("hold")] == [0, 1, 2, 3] + [4] * 12
    assert len(plan("none")) == 5
    with pytest.raises(UserError, match="pingpong"):
        plan("bounce")


def test_plan_keeps_variable_durations_both_ways(tmp_path: Path) -> None:
    stamps = [0, 3000, 9000, 12_000]
    reader = VideoReader(make(tmp_path / "a.mp4", list(pattern(4)), stamps=stamps))
    frames = list(plan_frames(reader, Fraction(1, 2)))
    durations = {frame.index: frame.duration for frame in frames[:4]}
    assert [frame.index for frame in frames][:7] == [0, 1, 2, 3, 2, 1, 0]
    assert all(b.time - a.time == durations[a.index] for a, b in pairwise(frames))


def test_plan_of_one_frame_and_of_a_picture(tmp_path: Path) -> None:
    reader = VideoReader(make(tmp_path / "a.mp4", list(pattern(1))))
    assert len(list(plan_frames(reader, Fraction(1)))) == 25
    Image.fromarray(next(pattern(1))).save(tmp_path / "a.png")
    source = open_source(tmp_path / "a.png")
    for seconds, count in ((Fraction(1), 25), (Fraction(101, 100), 26), (Fraction(1, 20), 2)):
        frames = list(plan_frames(source, seconds))
        assert len(frames) == count
        assert [frame.time for frame in frames] == [Fraction(i, 25) for i in range(count)]


def test_damaged_time_stamps_are_refused(tmp_path: Path) -> None:
    reader = VideoReader(make(tmp_path / "a.mp4", list(pattern(30)), stamps=list(range(30))))
    with pytest.raises(UserError, match="time stamps"):
        deque(plan_frames(reader, Fraction(2)), maxlen=0)


# ----------------------------------------------------------------------------------------------- pictures


def test_alpha_is_shown_on_white(tmp_path: Path) -> None:
    image = np.zeros((40, 30, 4), np.uint8)
    image[:20] = (200, 100, 50, 255)
    Image.fromarray(image).save(tmp_path / "a.png")
    pixels, notes = read_picture(tmp_path / "a.png")
    assert np.array_equal(pixels[0, 0], (200, 100, 50))
    assert np.array_equal(pixels[-1, 0], (255, 255, 255))
    assert "white" in notes[0]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif", ".bmp", ".tif", ".gif"])
def test_formats_of_pictures(tmp_path: Path, suffix: str) -> None:
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    path = tmp_path / f"a{suffix}"
    Image.fromarray(next(pattern(1))).save(path)
    assert probe(path).kind == "picture"
    pixels, notes = read_picture(path)
    assert np.abs(pixels.astype(int) - next(pattern(1))).mean() < 6
    assert notes == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profile(tmp_path: Path, mode: str) -> None:
    """sRGB with the names of red and blue exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    Image.new("RGB", (32, 32), (220, 90, 60)).convert(mode).save(tmp_path / "a.png", icc_profile=profile)
    pixels, notes = read_picture(tmp_path / "a.png")
    assert np.abs(pixels[0, 0].astype(int) - (60, 90, 220)).max() <= 20
    assert notes == []  # nothing in it is transparent


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20, :30] = (250, 250, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif, quality=95)
    turned = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.swapaxes(0, 1),
        6: np.rot90(image, -1),
        7: image[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(image),
    }[orientation]
    pixels, _ = read_picture(tmp_path / "a.jpg")
    info = probe(tmp_path / "a.jpg")
    assert (info.height, info.width) == pixels.shape[:2] == turned.shape[:2]
    assert np.abs(pixels.astype(int) - turned).mean() < 5


def test_sixteen_bits_grey_and_palette(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(32, 0)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    pixels, _ = read_picture(tmp_path / "a.png")
    assert np.abs(pixels[0, :, 1].astype(float) - ramp[0] / 257).max() <= 0.51
    Image.fromarray(next(pattern(1))).quantize(16).save(tmp_path / "p.png")
    assert read_picture(tmp_path / "p.png")[0].shape == (48, 64, 3)


def test_huge_picture_is_reduced(tmp_path: Path) -> None:
    Image.new("L", (12_000, 9000), 120).save(tmp_path / "a.jpg")
    picture = Picture(tmp_path / "a.jpg")
    assert picture.info.width / picture.info.height == pytest.approx(4 / 3, abs=2e-3)
    assert picture.info.width * picture.info.height <= LEVEL_PIXELS
    assert picture.info.width % 2 == picture.info.height % 2 == 0
    assert "12000x9000" in picture.notes[0]


# --------------------------------------------------------------------------------------------------- sound


@pytest.mark.parametrize(
    ("codec", "suffix", "rate", "layout"),
    [
        ("aac", ".m4a", 44_100, "stereo"),
        ("aac", ".mp4", 48_000, "5.1"),
        ("libmp3lame", ".mp3", 44_100, "mono"),
        ("pcm_s16le", ".wav", 8000, "mono"),
        ("pcm_f32le", ".wav", 96_000, "stereo"),
        ("libopus", ".webm", 48_000, "stereo"),
        ("flac", ".flac", 22_050, "mono"),
    ],
)
def test_sound_is_read_as_mono_16_khz(
    tmp_path: Path, codec: str, suffix: str, rate: int, layout: str
) -> None:
    path = make(tmp_path / f"a{suffix}", audio=codec, rate=rate, layout=layout, seconds=2)
    reader = AudioReader(path)
    chunks = list(reader)
    sound = np.concatenate(chunks)
    assert sound.dtype == np.float32
    assert 0 <= reader.seconds - 2 < Fraction(6, 100)  # the last codec frame is padded
    assert abs(len(sound) - reader.seconds * 16_000) <= 16
    assert max(map(len, chunks)) <= 16_000
    click = np.abs(sound - np.convolve(sound, np.ones(5) / 5, "same")).argmax()
    assert abs(click - 16_000) <= 12  # heard where it was written, within 0.75 ms
    quiet = sound[4000:12_000]
    assert np.sqrt((quiet**2).mean()) == pytest.approx(
        0.1 / np.sqrt(2), rel=0.12
    )  # no channel count changes loudness


def test_sound_keeps_its_offset_to_the_picture(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.mkv", list(pattern(50)), audio="pcm_s16le", rate=16_000, layout="mono", audio_start=0.5
    )
    reader = AudioReader(path)
    sound = reader.read()
    assert reader.seconds == Fraction(3, 2)
    assert not sound[:7990].any()
    assert np.abs(sound).argmax() == pytest.approx(16_000, abs=12)
    with VideoWriter(tmp_path / "b.mov", VideoReader(path).info, path) as writer:
        for frame in VideoReader(path):
            writer.write(frame)
    assert np.abs(AudioReader(tmp_path / "b.mov").read()).argmax() == pytest.approx(16_000, abs=12)


def test_many_channels(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as out:
        out.setparams((40, 2, 16_000, 0, "NONE", ""))
        out.writeframes(np.full((16_000, 40), 16_384, np.int16).tobytes())
    sound = AudioReader(tmp_path / "a.wav").read()
    assert sound.shape == (16_000,)
    assert np.abs(sound - 0.5).max() < 1e-4
    with VideoWriter(tmp_path / "b.mp4", plain_info(64, 48), tmp_path / "a.wav") as writer:
        for i, image in enumerate(pattern(25)):
            writer.write(Frame(i, Fraction(i, 25), Fraction(1, 25), image))
    assert np.abs(AudioReader(tmp_path / "b.mp4").read()[2000:14_000] - 0.5).max() < 0.05


def test_mix_of_channels() -> None:
    surround = ["FL", "FR", "FC", "LFE", "BL", "BR"]
    for outputs in (1, 2):
        for names in (["FC"], ["FL", "FR"], ["NONE"] * 5, surround, ["LFE"]):
            mix = _mix(names, outputs)
            assert mix.shape == (outputs, len(names))
            assert np.allclose(mix.sum(1), 1)
    left, right = _mix(surround, 2)
    assert left[1] == left[5] == left[3] == right[0] == right[4] == 0
    assert left[2] == right[2] > left[0] == right[1] > left[4] == right[5] > 0


def stereo(path: Path, left: np.ndarray, right: np.ndarray, rate: int = 16_000) -> Path:
    """Two channels as 16-bit WAV."""
    with wave.open(str(path), "wb") as out:
        out.setparams((2, 2, rate, 0, "NONE", ""))
        out.writeframes((np.stack([left, right], 1) * 32767).astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("turned", [-1.0, -0.8, 0.0, 0.05])
def test_channels_that_cancel_or_are_silent_do_not_mute_the_mix(
    tmp_path: Path, rate: int, turned: float
) -> None:
    rng = np.random.default_rng(0)
    voice = 0.2 * np.sin(np.arange(3 * rate) * 2 * np.pi * 220 / rate) * (1 + rng.random(3 * rate)) / 2
    reader = AudioReader(stereo(tmp_path / "a.wav", voice, turned * voice, rate))
    alone = AudioReader(stereo(tmp_path / "b.wav", voice, voice, rate))
    assert np.abs(reader.read() - alone.read()).max() < 2e-3
    assert any("loudest channel" in note for note in reader.notes)
    assert alone.notes == []
    assert max(map(len, reader)) <= 16_000


def several(path: Path, defaults: tuple[bool, ...]) -> Path:
    """A sound track for each flag, at 200 Hz, 400 Hz, ..., marked as default or not."""
    with av.open(str(path), "w") as out:
        tracks = [out.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in defaults]
        for track, default in zip(tracks, defaults, strict=True):
            track.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
        for number, track in enumerate(tracks, 1):
            tone = np.sin(np.arange(16_000) * 2 * np.pi * 200 * number / 16_000) * 8000
            frame = av.AudioFrame.from_ndarray(tone[None].astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            out.mux(track.encode(frame))
            out.mux(track.encode(None))
    return path


@pytest.mark.parametrize(
    ("defaults", "track", "heard"),
    [
        ((False, True), None, 2),
        ((False, False), None, 1),
        ((True, True, False), None, 1),
        ((False, False, True), None, 3),
        ((False, True), 1, 1),
        ((True, False, False), 3, 3),
    ],
)
def test_the_default_sound_track_is_taken_or_the_one_that_is_asked_for(
    tmp_path: Path, defaults: tuple[bool, ...], track: int | None, heard: int
) -> None:
    path = several(tmp_path / "a.mkv", defaults)
    reader = AudioReader(path, track)
    assert np.abs(np.fft.rfft(reader.read())).argmax() == 200 * heard
    assert [f"track {heard} " in note for note in reader.notes] == [True] * (track is None)
    with VideoWriter(tmp_path / "b.mkv", plain_info(64, 48), path, track=track) as writer:
        for i, image in enumerate(pattern(25)):
            writer.write(Frame(i, Fraction(i, 25), Fraction(1, 25), image))
    assert np.abs(np.fft.rfft(AudioReader(tmp_path / "b.mkv").read())).argmax() == 200 * heard


@pytest.mark.parametrize("track", [0, -1, 3, 10**30])
def test_a_sound_track_that_is_not_there(tmp_path: Path, track: int) -> None:
    with pytest.raises(UserError, match=rf"sound track {track} was asked for, and it has 2"):
        AudioReader(several(tmp_path / "a.mkv", (False, True)), track)


def test_usual_stereo_stays_a_mix(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, other = 0.1 * rng.standard_normal((2, 48_000)).clip(-3, 3)
    for left, right in ((one, other), (one, one), (one + 0.3 * other, other), (one, 0.3 * one)):
        reader = AudioReader(stereo(tmp_path / "a.wav", left, right))
        assert np.abs(reader.read() - (left + right) / 2).max() < 1e-3
        assert reader.notes == []


def test_the_loudest_channel_changes_without_a_click(tmp_path: Path) -> None:
    """Two people, each on a channel: the one who speaks is heard at full level."""
    tone = 0.3 * np.sin(np.arange(32_000) * 2 * np.pi * 200 / 16_000)
    quiet = np.zeros(32_000)
    path = stereo(tmp_path / "a.wav", np.concatenate([tone, quiet]), np.concatenate([quiet, tone]))
    sound = AudioReader(path).read()
    assert np.abs(sound - np.concatenate([tone, tone]))[np.r_[:31_000, 38_000:64_000]].max() < 1e-3
    assert np.abs(np.diff(sound)).max() < 0.03  # a click would be 0.3


def test_gaps_in_sound_become_silence(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16_000)
        stream.layout = "mono"
        for i in [*range(10), *range(20, 30)]:  # 0.1 s each
            frame = av.AudioFrame.from_ndarray(
                np.full((1, 1600), 8000, np.int16), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = 16_000, i * 1600, Fraction(1, 16_000)
            out.mux(stream.encode(frame))
    reader = AudioReader(tmp_path / "a.mkv")
    sound = reader.read()
    assert reader.seconds == 3
    assert not sound[16_100:31_900].any()
    assert (np.abs(sound[33_000:47_000] - 0.244) < 0.01).all()


def test_time_0_is_the_first_frame_that_can_be_decoded(tmp_path: Path) -> None:
    options = {"x264-params": "keyint=25:min-keyint=25:scenecut=0:bframes=2"}
    images = list(pattern(75))
    whole = make(tmp_path / "whole.mp4", images, options=options, audio="aac", seconds=3, rate=16_000)
    path = remuxed(whole, tmp_path / "a.ts", lambda _, time: time if time >= Fraction(12, 25) else None)
    assert len(list(VideoReader(path))) == 50  # the key frame at 1 s is the first
    assert click(path) == pytest.approx(0.5, abs=0.01)
    copied(path, tmp_path / "b.mkv")
    assert click(tmp_path / "b.mkv") == pytest.approx(0.5, abs=0.01)


def test_sound_that_leads_by_seconds(tmp_path: Path) -> None:
    whole = make(
        tmp_path / "whole.mp4", list(pattern(75)), options={"bf": "0"}, audio="aac", seconds=6, rate=16_000
    )
    path = remuxed(whole, tmp_path / "a.mkv", lambda kind, time: time + 2 if kind == "video" else time)
    assert click(path) == pytest.approx(1, abs=0.01)
    for out in (".mp4", ".mkv"):
        copied(path, tmp_path / f"b{out}")
        assert click(tmp_path / f"b{out}") == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("out", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("codec", ["aac", "libopus", "pcm_s16le"])
def test_long_gaps_in_sound_stay(tmp_path: Path, codec: str, out: str) -> None:
    """A microphone that was muted for 14 seconds beside a picture that went on."""
    whole = make(
        tmp_path / f"whole{'.mov' if codec == 'pcm_s16le' else '.mp4'}",
        list(pattern(30)),
        fps=1,
        options={"bf": "0"},
        audio=codec,
        seconds=30,
        rate=48_000,
    )
    path = remuxed(
        whole, tmp_path / "a.mkv", lambda kind, time: None if kind == "audio" and 0.5 < time < 14.5 else time
    )
    assert click(path) == pytest.approx(15, abs=0.01)
    copied(path, tmp_path / f"b{out}")
    assert click(tmp_path / f"b{out}") == pytest.approx(15, abs=0.01)
    assert len(list(VideoReader(tmp_path / f"b{out}"))) in (30, 31)  # codecs pad the sound's end


def test_sound_that_starts_late(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", list(pattern(15)), fps=1, audio="pcm_s16le", rate=16_000, audio_start=12)
    assert AudioReader(path).seconds == 13
    assert click(path) == pytest.approx(12.5, abs=0.002)


@pytest.mark.parametrize("out", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
def test_one_recording_behind_another(tmp_path: Path, suffix: str, out: str) -> None:
    codec = "mpeg1video" if suffix == ".mpg" else "libx264"
    part = make(
        tmp_path / f"part{suffix}", list(pattern(50)), codec=codec, audio="mp2", seconds=2, rate=48_000
    )
    path = tmp_path / f"a{suffix}"
    path.write_bytes(2 * part.read_bytes())
    copied(path, tmp_path / f"b{out}")
    assert len(list(VideoReader(tmp_path / f"b{out}"))) == 100
    for file in (path, tmp_path / f"b{out}"):
        sound = np.abs(AudioReader(file).read())
        clicks = [int(sound[:32_000].argmax()) / 16_000, 2 + int(sound[32_000:].argmax()) / 16_000]
        assert clicks == pytest.approx([1, 3], abs=0.08)  # no packet of sound is cut in two


# -------------------------------------------------------------------------------------------------- writing
# -------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("codec", "suffix", "out", "untouched"),
    [
        ("aac", ".m4a", ".mp4", True),
        ("aac", ".m4a", ".mkv", True),
        ("libmp3lame", ".mp3", ".mp4", True),
        ("mp2", ".mpg", ".mp4", True),
        ("ac3", ".ac3", ".mp4", True),
        ("flac", ".flac", ".mp4", True),
        ("libopus", ".ogg", ".mkv", True),
        ("libopus", ".ogg", ".mp4", False),
        ("vorbis", ".ogg", ".mkv", True),
        ("vorbis", ".ogg", ".mp4", False),
        ("alac", ".m4a", ".mp4", True),
        ("pcm_s16le", ".wav", ".mov", True),
        ("pcm_s16le", ".wav", ".mkv", True),
        ("pcm_s16le", ".wav", ".mp4", False),
        ("libopus", ".ogg", ".mov", False),
    ],
)
def test_sound_packets_are_copied(tmp_path: Path, codec: str, suffix: str, out: str, untouched: bool) -> None:
    audio = make(tmp_path / f"a{suffix}", audio=codec, rate=48_000, seconds=2)
    seconds = AudioReader(audio).seconds
    Image.fromarray(next(pattern(1))).save(tmp_path / "a.png")
    source = open_source(tmp_path / "a.png")
    with VideoWriter(tmp_path / f"b{out}", source.info, audio) as writer:
        frames = [writer.write(frame) for frame in plan_frames(source, seconds)]
    if untouched:
        assert b"".join(packets(tmp_path / f"b{out}")) == b"".join(packets(audio))
        assert [("browsers" in note) for note in writer.notes] == [True] * (
            out == ".mp4" and codec in ("mp2", "ac3", "alac")
        )
    else:
        assert "AAC" in writer.notes[0]
        assert ".mkv would keep it untouched" in writer.notes[0]
        assert len(packets(tmp_path / f"b{out}")) > 80
    seen = AudioReader(tmp_path / f"b{out}").read()
    heard = AudioReader(audio).read()
    click = [np.abs(sound - np.convolve(sound, np.ones(5) / 5, "same")).argmax() for sound in (seen, heard)]
    assert abs(click[0] - click[1]) <= 20  # Matroska: milliseconds
    assert len(list(VideoReader(tmp_path / f"b{out}"))) == len(frames) == -(-seconds * 25 // 1)


def test_sound_ends_with_the_video(tmp_path: Path) -> None:
    audio = make(tmp_path / "a.m4a", audio="aac", seconds=4)
    with VideoWriter(tmp_path / "b.mp4", plain_info(64, 48), audio) as writer:
        for i, image in enumerate(pattern(25)):
            writer.write(Frame(i, Fraction(i, 25), Fraction(1, 25), image))
    assert packets(tmp_path / "b.mp4") == packets(audio)[: len(packets(tmp_path / "b.mp4"))]
    assert 1.0 <= AudioReader(tmp_path / "b.mp4").seconds <= 1.13
    with av.open(str(tmp_path / "b.mp4")) as container:
        video = container.streams.video[0]
        assert video.duration * video.time_base == 1
        assert video.average_rate == 25


def test_the_last_frame_is_shown_for_as_long_as_it_was(tmp_path: Path) -> None:
    times = [Fraction(0), Fraction(1, 25), Fraction(1), Fraction(3)]
    with VideoWriter(tmp_path / "b.mp4", plain_info(64, 48)) as writer:
        for i, image in enumerate(pattern(3)):
            writer.write(Frame(i, times[i], times[i + 1] - times[i], image))
    assert list(VideoReader(tmp_path / "b.mp4"))[-1].duration == 2
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.duration == 3_000_000


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
def test_lossless_is_lossless(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) for _ in range(5)]
    with VideoWriter(tmp_path / f"a{suffix}", plain_info(*size), lossless=True) as writer:
        for i, image in enumerate(images):
            writer.write(Frame(i, Fraction(i, 25), Fraction(1, 25), image))
    for image, (_, plain), frame in zip(
        images, plain_frames(tmp_path / f"a{suffix}"), VideoReader(tmp_path / f"a{suffix}"), strict=True
    ):
        assert np.array_equal(image, plain)
        assert np.array_equal(image, frame.image)


@pytest.mark.parametrize(("width", "height"), [(63, 48), (64, 47), (63, 47)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_odd_sizes_keep_every_pixel_and_play(tmp_path: Path, width: int, height: int, suffix: str) -> None:
    images = list(pattern(5, width, height))
    with VideoWriter(tmp_path / f"a{suffix}", plain_info(width, height)) as writer:
        for i, image in enumerate(images):
            writer.write(Frame(i, Fraction(i, 25), Fraction(1, 25), image))
    assert "odd" in writer.notes[0]
    frames = plain_frames(tmp_path / f"a{suffix}")
    assert len(frames) == 5
    with av.open(str(tmp_path / f"a{suffix}")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.name == ("vp9" if suffix == ".mkv" else "h264")
        assert (stream.width, stream.height) == (writer.width, writer.height)
    if suffix != ".mkv":
        images = [np.pad(i, ((0, height % 2), (0, width % 2), (0, 0)), "edge") for i in images]
    for image, (_, seen) in zip(images, frames, strict=True):
        assert seen.shape == image.shape
        assert np.abs(seen.astype(int) - image).mean() < 3


@pytest.mark.parametrize("matrix", [1, 2, 6])
@pytest.mark.parametrize("span", [1, 2])
def test_colours_do_not_shift(tmp_path: Path, matrix: int, span: int) -> None:
    """The encoder gets the source's own samples where nothing was painted; the mean holds where it was."""
    images = [np.clip(image.astype(int) + 30, 0, 255).astype(np.uint8) for image in pattern(4)]
    tags = {"colorspace": matrix, "color_range": span, "color_primaries": matrix, "color_trc": matrix}
    path = make(tmp_path / "a.mkv", images, codec="ffv1", context=tags)
    reader = VideoReader(path)
    with VideoWriter(tmp_path / "b.mp4", reader.info) as writer:
        writer._video.options = {"qp": "0"}  # H.264 without loss in YUV: what is read is what the encoder got
        for frame in reader:
            painted = frame.image.copy()
            painted[16:32, 16:32] += 10
            writer.write(frame, painted)
    with av.open(str(path)) as a, av.open(str(tmp_path / "b.mp4")) as b:
        for source, result in zip(a.decode(video=0), b.decode(video=0), strict=True):
            own = [plane.astype(int) for plane in planes_of(source)]
            got = [plane.astype(int) for plane in planes_of(result)]
            change = got[0] - own[0]
            assert not change[:16].any()
            assert not change[32:].any()
            assert change[16:32, 16:32].mean() == pytest.approx(10 * (219 / 255 if span == 1 else 1), abs=0.3)
            for p, q in zip(own[1:], got[1:], strict=True):
                assert np.abs(q - p).max() <= 1
            assert (result.colorspace, max(1, result.color_range)) == (matrix, span)  # not said is limited
            assert (result.color_primaries, result.color_trc) == (matrix, matrix)


@pytest.mark.parametrize(
    ("codec", "pixels", "lossless", "says"),
    [
        ("prores_ks", "yuv422p10le", False, "10 bits a sample and 4:2:2 become 8 bits and 4:2:0"),
        ("prores_ks", "yuv422p10le", True, "10 bits a sample become 8 bits,"),
        ("libx264", "yuv420p10le", False, "10 bits a sample become 8 bits,"),
        ("libx264", "yuv444p", False, "4:4:4 become 4:2:0"),
        ("libx264", "yuv444p", True, ""),
        ("libx264", "yuv420p", False, ""),
    ],
)
def test_bits_and_colours_that_are_lost_are_noted(
    tmp_path: Path, codec: str, pixels: str, lossless: bool, says: str
) -> None:
    source = VideoReader(make(tmp_path / "a.mov", list(pattern(3)), codec=codec, pixels=pixels))
    with VideoWriter(tmp_path / "b.mov", source.info, lossless=lossless) as writer:
        for frame in source:
            writer.write(frame)
    assert [says in note for note in writer.notes] == [True] * bool(says)


def test_pixel_aspect_and_metadata(tmp_path: Path) -> None:
    tags = {"sample_aspect_ratio": Fraction(16, 15)}
    path = make(tmp_path / "a.mp4", list(pattern(3)), context=tags)
    with VideoWriter(tmp_path / "b.mp4", VideoReader(path).info, metadata={"comment": "synthetic"}) as writer:
        for frame in VideoReader(path):
            writer.write(frame)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 15)
        assert container.metadata["comment"] == "synthetic"


def test_quality_is_a_constant_rate_factor(tmp_path: Path) -> None:
    source = VideoReader(make(tmp_path / "a.mkv", list(pattern(12)), codec="ffv1"))
    sizes, errors = [], []
    for name, quality in (("best.mp4", 0), ("usual.mp4", None), ("worst.mp4", 40), ("whole.mp4", 40)):
        given = {} if quality is None else {"quality": quality}
        with VideoWriter(tmp_path / name, source.info, lossless=name == "whole.mp4", **given) as writer:
            for frame in source:
                writer.write(frame)
        sizes.append((tmp_path / name).stat().st_size)
        pairs = zip(source, VideoReader(tmp_path / name), strict=True)
        errors.append(np.mean([np.abs(a.image.astype(int) - b.image).mean() for a, b in pairs]))
    assert sizes[0] > sizes[1] > sizes[2]
    assert errors[0] < errors[1] < errors[2]
    assert errors[3] == 0
    with av.open(str(tmp_path / "best.mp4")) as container:  # of H.264's profiles one that all players know
        assert container.streams.video[0].profile == "High"


@pytest.mark.parametrize("quality", [-1, 40.1, np.nan, np.inf, "20", True, None, 1j])
def test_a_quality_that_is_none(tmp_path: Path, quality: Any) -> None:
    with pytest.raises(UserError, match="must be a number from 0"):
        VideoWriter(tmp_path / "a.mp4", plain_info(64, 48), quality=quality)
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    out = tmp_path / "b.mp4"
    out.write_bytes(b"older result")

    def fail() -> None:
        with VideoWriter(out, plain_info(64, 48)) as writer:
            writer.write(Frame(0, Fraction(0), Fraction(1, 25), next(pattern(1))))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert out.read_bytes() == b"older result"
    assert [path.name for path in tmp_path.iterdir()] == ["b.mp4"]
    (tmp_path / "folder.mp4").mkdir()
    for name, width in (("b.txt", 64), ("no/b.mp4", 64), ("folder.mp4", 64)):
        with pytest.raises(UserError):
            VideoWriter(tmp_path / name, plain_info(width, 48))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.mp4", "folder.mp4"]


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    with (
        VideoWriter(tmp_path / "b.mp4", plain_info(64, 48)) as one,
        VideoWriter(tmp_path / "b.mp4", plain_info(64, 48)) as other,
    ):
        for i, image in enumerate(pattern(10)):
            for writer in (one, other):
                writer.write(Frame(i, Fraction(i, 25), Fraction(1, 25), image))
    assert len(list(VideoReader(tmp_path / "b.mp4"))) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["b.mp4"]


def test_read_clip(tmp_path: Path) -> None:
    clip = read_clip(make(tmp_path / "a.mp4", list(pattern(50)), audio="aac", seconds=2), max_seconds=1)
    assert clip.frames.shape == (25, 48, 64, 3)
    assert clip.fps == 25
    assert clip.audio.shape == (16_000,)
    assert read_clip(make(tmp_path / "b.mp4", list(pattern(5)))).audio.shape == (0,)


# -------------------------------------------------------------------------------------------- broken input


def refused(path: Path, *words: str) -> None:
    for reader in (open_source, lambda path: AudioReader(path).seconds):
        with pytest.raises(UserError) as caught:
            reader(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_broken_files_get_their_sentence(tmp_path: Path) -> None:
    refused(tmp_path / "missing.mp4", "no such file")
    refused(tmp_path, "not a file")
    (tmp_path / "empty.mp4").write_bytes(b"")
    refused(tmp_path / "empty.mp4", "empty")
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 100)
    refused(tmp_path / "text.mp4", "cannot be read")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:3,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    refused(tmp_path / "list.mp4")
    rng = np.random.default_rng(0)
    for name in ("noise.mp4", "noise.mpg", "noise.wav", "noise.mp3", "noise.png", "noise.jpg"):
        (tmp_path / name).write_bytes(rng.bytes(20_000))
        refused(tmp_path / name)
    whole = make(tmp_path / "whole.mp4", list(pattern(50)), audio="aac").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[:600])  # inside the index
    refused(tmp_path / "cut.mp4")


def test_wrong_kinds_get_their_sentence(tmp_path: Path) -> None:
    silent = make(tmp_path / "silent.mp4", list(pattern(5)))
    with pytest.raises(UserError, match=r"silent\.mp4: there is no sound track"):
        AudioReader(silent)
    sound = make(tmp_path / "sound.wav", audio="pcm_s16le")
    with pytest.raises(UserError, match=r"sound\.wav: there is no video"):
        open_source(sound)
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(UserError, match="1x1 pixels"):
        open_source(tmp_path / "dot.png")
    with pytest.raises(UserError, match="no sound"):
        AudioReader(tmp_path / "dot.png")
    short = make(tmp_path / "short.wav", audio="pcm_s16le", seconds=0.01)
    with pytest.raises(UserError, match=r"0\.010 s of sound"):
        _ = AudioReader(short).seconds
    none = tmp_path / "none.wav"
    with wave.open(str(none), "wb") as empty:
        empty.setparams((1, 2, 16_000, 0, "NONE", ""))
    with pytest.raises(UserError):
        _ = AudioReader(none).seconds
    Image.fromarray(next(pattern(1, 300, 300))).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:400])
    with pytest.raises(UserError, match="damaged"):
        open_source(tmp_path / "cut.png")


def test_truncated_video_gives_what_it_has(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(50)]
    whole = make(tmp_path / "a.mp4", images, audio="aac", seconds=2, options={"g": "10"}).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    reader = VideoReader(tmp_path / "cut.mp4")
    frames = list(reader)
    assert 10 < len(frames) < 50
    assert "of the 50 frames" in " ".join(reader.notes)
    assert len(list(plan_frames(reader, Fraction(3)))) == 75
    damaged = bytearray(whole)
    for start in range(len(whole) // 3, len(whole) // 3 + 4000, 7):
        damaged[start] ^= 0xFF
    (tmp_path / "bad.mp4").write_bytes(bytes(damaged))
    assert len(list(VideoReader(tmp_path / "bad.mp4"))) > 10


def test_what_an_edit_list_leaves_out_is_not_missing(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole.mp4", list(pattern(50)), options={"g": "50", "bf": "0"})
    path = remuxed(whole, tmp_path / "a.mp4", lambda _, time: time - Fraction(3, 5))
    reader = VideoReader(path)
    assert 30 <= len(list(reader)) < 50
    assert reader.info.frames == 50
    assert reader.notes == []


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    cover = io.BytesIO()
    Image.fromarray(next(pattern(1))).save(cover, "JPEG")
    path = tmp_path / "a.mp3"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("libmp3lame", rate=16_000)
        picture = out.add_mux_stream("mjpeg", width=64, height=48)
        picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 16_000), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 16_000
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = picture, 0, 0, True
        out.mux(packet)
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    assert probe(path).kind == "audio"
    assert AudioReader(path).seconds > 0.9


# ------------------------------------------------------------------------------------------------ real clips


def test_grid_clips(tmp_path: Path) -> None:
    shared = Path(os.environ.get("MODITALKER_SHARED", Path(__file__).parents[2] / "shared"))
    clips = sorted(shared.glob("data/grid/s*/*.mpg"))[:1]
    if not clips:
        pytest.skip("the GRID corpus is not beside the repository")
    for clip in clips:
        reader = VideoReader(clip)
        seconds = AudioReader(clip).seconds
        for out, lossless in (("b.mp4", False), ("c.mp4", True)):
            with VideoWriter(tmp_path / out, reader.info, clip, lossless=lossless) as writer:
                frames = list(plan_frames(reader, seconds))
                for frame in frames:
                    writer.write(frame)
            assert packets(tmp_path / out) == packets(clip)
            assert len(plain_frames(tmp_path / out)) == len(plain_frames(clip))
        for (time, a), (again, b) in zip(plain_frames(clip), plain_frames(tmp_path / "c.mp4"), strict=True):
            assert time == again
            assert np.array_equal(a, b)
        one, other = plain_frames(clip)[40][1], plain_frames(tmp_path / "b.mp4")[40][1]
        assert np.abs(one.astype(float).mean((0, 1)) - other.mean((0, 1))).max() < 0.25
