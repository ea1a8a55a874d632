"""Writes videos: frames, and the sound of a file, completely or not at all."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from PIL import Image

from moditalker.errors import UserError
from moditalker.jobs.files import abandoned, check_name, mark, shortened
from moditalker.media.files import (
    MAX_SIDE,
    MIN_SIDE,
    PICTURE_FPS,
    MediaInfo,
    PathLike,
    Pixels,
    opened,
    reason,
    streams,
)
from moditalker.media.files import decoded as decoded_frames
from moditalker.media.pixels import EXACT, paint, planes_of, to_yuv
from moditalker.media.sound import AudioReader, anew
from moditalker.media.sources import MIN_STEP, SLACK, Frame

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}  # written, by file ending
FORMATS |= {".gif": "gif", ".webp": "webp"}  # without sound
SILENT = {"gif": ("gif", Fraction(1, 100), 2), "webp": ("libwebp_anim", Fraction(1, 1000), 10)}
# Encoders of each codec, and its rate factor for x264's.
CODECS: dict[str, tuple[tuple[str, ...], float]] = {
    "h264": (("libx264",), 1.0),
    "hevc": (("libx265",), 1.0),
    "vp9": (("libvpx-vp9",), 10 / 14),
    "av1": (("libsvtav1", "libaom-av1"), 1.3),
}
PIXELS = {
    "yuv420p": "yuv420p",
    "yuv422p": "yuv422p",
    "yuv420p10": "yuv420p10le",
    "yuv422p10": "yuv422p10le",
}  # by their names for people
# x264's macroblock tree gives other bits from run to run on processors with AVX-512.
REPEATABLE = {"mbtree": "0"}
H264, H264_RGB, VP9 = ENCODERS = ("libx264", "libx264rgb", "libvpx-vp9")  # what a written video may need

# Codecs of sound that the usual players take in .mp4 and .mov; Opus and Vorbis stay silent in QuickTime, on
# iPhones and in chats.
PLAYED = ("aac", "mp3", "alac", "ac3", "eac3", "mp2", "flac")

QUALITY, WORST = 20.0, 40.0  # constant rate factors of x264: usual, and largest that is taken

_NUMBERS = count()  # of this process's writers: two of one file do not write into each other's


class VideoWriter:
    """Writes frames and a file's sound. A context manager: the file appears only if the block succeeds.

    ``info`` gives size, time base, colour tags and pixel aspect: the source's, or ``plain_info``.
    ``audio``: a file whose sound packets are copied untouched if the container takes them and usual
    players play them there (`PLAYED`), else encoded as AAC, which ``notes`` says; uncompressed sound in
    .mp4 always is. ``track``: number of its sound track, from 1; None: the one that players take.
    ``recode_audio`` asks for AAC. ``quality``: x264's constant rate factor, 0 (best) to 40; VP9 gets a
    similar one, ``lossless`` ignores it. Sound that lasts more than SLACK longer than the video is cut.
    In .mp4 and .mov an odd side becomes even: the last row or column is repeated; ``width`` and
    ``height`` are the file's. .mkv rounds all times to milliseconds. ``size`` scales the
    pictures (`fitted`); ``codec`` is one of `CODECS`, ``pixel_format`` of `PIXELS`. .gif and .webp have no
    sound. ``seal`` makes the file that
    appears out of the encoded one: source, target. ``film``: a file whose sound tracks, subtitles, chapters
    and titles are kept, untouched where the container takes them, behind ``audio``.
    Raises UserError for an ending, folder, size or disk
    that cannot take the file, or for another quality.
    """

    def __init__(
        self,
        path: PathLike,
        info: MediaInfo,
        audio: PathLike | None = None,
        *,
        track: int | None = None,
        lossless: bool = False,
        quality: float = QUALITY,
        recode_audio: bool = False,
        metadata: dict[str, str] | None = None,
        seal: Callable[[Path, Path], None] | None = None,
        film: PathLike | None = None,
        size: str = "",
        codec: str = "h264",
        pixel_format: str = "",
    ) -> None:
        self.path, self.info, self.notes = Path(path), info, list[str]()
        self.width, self.height = info.width, info.height  # of the file's frames; see `_add_video`
        self._seal, self._quality = seal, check_quality(quality)
        check_codec(codec, pixel_format)
        self._codec, self._form = codec, PIXELS.get(pixel_format, "yuv420p")
        self._scaled = bool(size) and fitted(size, info.width, info.height) != (self.width, self.height)
        if size:
            self.width, self.height = fitted(size, info.width, info.height)
        self._format = FORMATS.get(self.path.suffix.lower(), "")
        if not self._format:
            raise UserError(
                f"{path}: a video is written as {', '.join(FORMATS)}; choose one of these endings."
            )
        check_name(self.path)
        if not self.path.absolute().parent.is_dir():
            raise UserError(f"{path}: the folder does not exist; create it or choose another.")
        if self.path.is_dir():
            raise UserError(f"{path}: this is a folder; give the name of the file to write.")
        self._rgb, self._end, self._last_pts = lossless, Fraction(0), -1
        self._feeds: list[_Feed] = []  # of sound and subtitles
        self._kept = None if film is None else Path(film)
        number = next(_NUMBERS)
        stem = _part_stem(self.path)
        # FFmpeg opens a file by its name and seeks in it, so that `jobs.files.appearing` cannot give it one.
        self._part, self._sealed = (
            self.path.with_name(f".{stem}.{os.getpid()}-{number}.{name}{self.path.suffix}")
            for name in ("part", "sealed")
        )
        self._ticks = info.time_base if self._format not in SILENT else SILENT[self._format][1]
        self._least = 1 if self._format not in SILENT else SILENT[self._format][2]
        self._reader = None if audio is None or self._format in SILENT else AudioReader(audio, track)
        if self._format in SILENT:
            self._kept = None
            if lossless or codec != "h264" or pixel_format:
                raise UserError(f"{path}: lossless, codec and pixel_format go with a video; leave them out")
            if audio is not None:
                self.notes.append(f"{self.path.name}: {self.path.suffix} has no sound; it is left out.")
        elif lossless and (size or codec != "h264" or pixel_format):
            raise UserError("lossless goes without size, codec and pixel_format; leave them out")
        # Matroska holds the negative stamps of codecs that start before 0; its muxer would rather shift all.
        options = {"matroska": {"avoid_negative_ts": "disabled"}}.get(
            self._format, {"movflags": "+faststart"}
        )
        if self._format in SILENT:
            options = {"loop": "0"}
        self._mark = -1  # the handle by which `_part` is marked
        with self._guarded():
            _remove_abandoned(self.path)
            self._mark = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o644)
            mark(self._mark)
            self._container = av.open(
                f"file:{self._part}", "w", format=self._format, container_options=options
            )
            self._video = self._add_video()
            if self._reader is not None:
                self._add_sound(self._reader, recode_audio)
            if self._kept is not None:
                self._add_film(self._kept)
            self._container.metadata.update(metadata or {})

    def _add_video(self) -> Any:
        info = self.info
        # Preset "fast" at 2 more is as near to our frames, in twice the time, for files a seventh smaller.
        # Without frames that are predicted from later ones each keeps its own duration. Below 1, x264 is
        # lossless, in a profile that few players know.
        rate = f"{max(1.0, self._quality):g}"
        codec, options = H264, {"crf": rate, "preset": "veryfast", "bf": "0"} | REPEATABLE
        if self._format in SILENT:
            return self._add_moving()
        if self._codec != "h264":
            codec, options = self._other_codec()
        if self._rgb:
            codec, options = H264_RGB, {"qp": "0", "preset": "ultrafast"}
        elif (info.width % 2 or info.height % 2) and not self._scaled:
            named = "H.264" if self._codec == "h264" else self._codec
            odd = f"{info.width}x{info.height} has an odd side, which {named} cannot have"
            if self._format == "matroska" and self._codec == "h264" and self._form == "yuv420p":
                like = round(self._quality * 10 / 14)  # VP9 at 10 is about as near as x264 at 14
                codec, options = VP9, {"crf": f"{like}", "b": "0", "deadline": "realtime", "cpu-used": "6"}
                self.notes.append(f"{odd}: encoded as VP9.")
            else:
                self.width, self.height = info.width + info.width % 2, info.height + info.height % 2
                self.notes.append(
                    f"{odd}: the last row or column is repeated ({self.width}x{self.height}); .mkv or "
                    "--lossless keeps the size."
                )
        self._note_depth()
        if self._scaled:
            self.notes.append(
                f"{self.path.name}: {info.width}x{info.height} becomes {self.width}x{self.height}, as asked."
            )
        forms = [form.name for form in av.Codec(codec, "w").video_formats or ()]
        if not self._rgb and self._form not in forms:
            raise UserError(
                f"codec {self._codec} has no {self._form} here; take hevc, or another pixel format"
            )
        stream: Any = self._container.add_stream(codec, rate=info.fps, options=options)
        stream.width, stream.height = self.width, self.height
        stream.pix_fmt = "rgb24" if self._rgb else self._form
        if self._codec == "hevc" and self._format != "matroska":
            stream.codec_context.codec_tag = "hvc1"  # QuickTime plays no other
        stream.time_base = stream.codec_context.time_base = info.time_base
        stream.codec_context.flags |= av.codec.context.Flags.frame_duration  # else the last one's is lost
        stream.codec_context.sample_aspect_ratio = info.pixel_aspect
        stream.codec_context.color_primaries = info.color.primaries
        stream.codec_context.color_trc = info.color.transfer
        if not self._rgb:
            stream.codec_context.colorspace, stream.codec_context.color_range = (
                info.color.matrix,
                info.color.range,
            )
        return stream

    def _other_codec(self) -> tuple[str, dict[str, str]]:
        """Encoder and settings of another codec than H.264."""
        names, factor = CODECS[self._codec]
        if self._codec in ("vp9", "av1") and self._format == "mov":
            raise UserError(f"{self.path}: .mov holds no {self._codec}; take .mp4 or .mkv, or codec hevc")
        name = next(filter(can_encode, names), "")
        if not name:
            raise UserError(f"codec {self._codec}: this FFmpeg has no encoder of it; take h264")
        os.environ.setdefault("SVT_LOG", "1")  # errors alone
        crf = f"{min(63, round(max(1.0, self._quality) * factor))}"
        settings = {
            "hevc": {"preset": "fast", "x265-params": "log-level=error:bframes=0"},
            "vp9": {"b": "0", "deadline": "realtime", "cpu-used": "6"},
            "av1": {"preset": "9"},
        }
        return name, {"crf": crf} | settings[self._codec]

    def _add_moving(self) -> Any:
        """The stream of a GIF or an animated WebP."""
        name = SILENT[self._format][0]
        if not can_encode(name):
            raise UserError(f"{self.path}: this FFmpeg writes no {self.path.suffix}; take .mp4")
        quality = f"{100 - 1.25 * self._quality:.0f}"
        options = {} if name == "gif" else {"quality": quality, "compression_level": "4"}
        stream: Any = self._container.add_stream(name, rate=self.info.fps, options=options)
        stream.width, stream.height = self.width, self.height
        stream.pix_fmt = "pal8" if name == "gif" else "bgra"
        stream.time_base = stream.codec_context.time_base = self._ticks
        if name == "gif":
            self.notes.append(f"{self.path.name}: a GIF shows 256 colours a picture.")
        self._note_size()
        return stream

    def _note_size(self) -> None:
        if self._scaled:
            had, becomes = f"{self.info.width}x{self.info.height}", f"{self.width}x{self.height}"
            self.notes.append(f"{self.path.name}: {had} becomes {becomes}, as asked.")

    def _note_depth(self) -> None:
        """Note bits and colours of the source that the file cannot hold."""
        if self.info.kind != "video" or self.info.path == Path():
            return
        form = av.VideoFormat(self.info.pixel_format)
        bits = max((component.bits for component in form.components), default=8)
        colours = {(64, 64): "4:4:4", (32, 64): "4:2:2"}.get((form.chroma_width(64), form.chroma_height(64)))
        loses = len(form.components) >= 3 and (not form.is_rgb or form.name.startswith("gbr"))
        wide, deep = "422" in self._form, "10" in self._form
        changes = (
            [(f"{bits} bits a sample", "10 bits" if deep else "8 bits")] if bits > (10 if deep else 8) else []
        )
        if colours is not None and loses and not self._rgb and not (wide and colours == "4:2:2"):
            changes.append((colours, "4:2:2" if wide else "4:2:0"))
        if changes:
            had, becomes = (" and ".join(words) for words in zip(*changes, strict=True))
            self.notes.append(f"{self.info.path.name}: {had} become {becomes}, which all players take.")

    def _add_sound(self, reader: AudioReader, recode: bool) -> Any:
        name, mp4 = reader.path.name, self._format == "mp4"
        with opened(reader.path) as source:
            audio = streams(source, reader.track)[1]
            codec, rate = audio.codec_context.codec.canonical_name, audio.codec_context.sample_rate
            channels = min(2, audio.codec_context.channels)
            # QuickTime's uncompressed sound has no time stamps.
            raw = codec.startswith("pcm") and (mp4 or (self._format == "mov" and not reader.whole))
            played = raw or self._format == "matroska" or codec.startswith("pcm") or codec in PLAYED
            if not recode and not raw and played and _takes(self._format, audio):
                stream: Any = self._container.add_stream_from_template(audio)
                self._feeds.append(_Feed(_copied(reader, stream)))
                if mp4 and codec not in ("aac", "mp3", "flac"):
                    self.notes.append(
                        f"{name}: its {codec} sound is copied untouched; browsers may need AAC."
                    )
                return stream
        rate = rate if rate in (av.Codec("aac", "w").audio_rates or ()) else 48_000
        encoder: Any = self._container.add_stream("aac", rate=rate)
        encoder.layout, encoder.bit_rate = "stereo" if channels == 2 else "mono", 96_000 * channels
        self._feeds.append(_Feed(_encoded(reader, encoder, rate, channels)))
        way = ""
        if not recode and not played:
            way = f", which all players of {self.path.suffix} take; .mkv would keep it untouched"
        elif raw:
            way = f"; {'.mov or .mkv' if mp4 else '.mkv'} would keep it untouched"
        if self._kept is None or not recode:  # a film's mix is a file of ours
            self.notes.append(f"{name}: its {codec} sound is encoded as AAC{way}.")
        return encoder

    def _add_film(self, film: Path) -> None:
        """Keep what a film has besides its picture."""
        default = av.stream.Disposition.default
        with opened(film) as container:
            source: Any = container
            zero, lost = _zero(source), list[str]()
            self._container.metadata.update(
                {k: v for k, v in source.metadata.items() if k in ("title", "artist", "date", "comment")}
            )
            base = Fraction(1, 1000)
            marks = [
                {
                    "id": number,
                    "start": round((mark["start"] * mark["time_base"] - zero) / base),
                    "end": round((mark["end"] * mark["time_base"] - zero) / base),
                    "time_base": base,
                    "metadata": dict(mark["metadata"]),
                }
                for number, mark in enumerate(source.chapters(), 1)
            ]
            self._container.set_chapters(marks)  # type: ignore[arg-type]
            tracks = list(source.streams.audio)
            for own in source.streams:
                if own.type == "audio":
                    kept = self._add_sound(AudioReader(film, tracks.index(own) + 1), recode=False)
                elif own.type == "subtitle" and _takes(self._format, own):
                    kept = self._container.add_stream_from_template(own)
                    self._feeds.append(_Feed(_texts(film, own.index, zero, kept)))
                else:
                    if own.type != "video":
                        lost.append(f"{own.type} ({own.name or 'unknown'})")
                    continue
                kept.metadata.update({k: own.metadata[k] for k in ("language", "title") if k in own.metadata})
                if own.type == "audio" and self._reader is not None:
                    kept.disposition = kept.disposition & ~default
            if lost:
                kinds = ", ".join(lost)
                self.notes.append(f"{film.name}: left out, as {self.path.suffix} cannot hold it: {kinds}.")

    def write(self, frame: Frame, image: Pixels | None = None) -> None:
        """Append a frame, shown from ``frame.time``; ``image`` (H, W, 3) uint8 replaces the frame's own."""
        image = frame.image if image is None else image
        if image.shape != (self.info.height, self.info.width, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"{image.shape} {image.dtype} is not ({self.info.height}, {self.info.width}, 3) uint8"
            )
        pts = round(frame.time / self._ticks)
        if self._format in SILENT and self._last_pts >= 0 and pts < self._last_pts + self._least:
            note = f"{self.path.name}: frames that follow within {self._least * self._ticks} s are left out."
            self.notes += [note] if note not in self.notes else []
            return
        if pts <= self._last_pts:
            raise ValueError(
                f"a frame at {frame.time} s follows one at {self._last_pts * self.info.time_base} s"
            )
        with self._guarded():
            native = self._native(frame, image)
            native.pts, native.time_base = pts, self._ticks
            native.duration = max(1, round(frame.duration / self._ticks))
            self._container.mux(self._video.encode(native))
            self._last_pts, self._end = pts, frame.time + frame.duration
            self._feed(frame.time)

    def _native(self, frame: Frame, image: Pixels) -> av.VideoFrame:
        if self._rgb:
            return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        color, form = self.info.color, self._form
        if self._format in SILENT:
            picture = Image.fromarray(image)
            if self._scaled:
                picture = picture.resize((self.width, self.height), Image.Resampling.LANCZOS)
            if self._format == "gif":
                return _with_palette(picture)
            return av.VideoFrame.from_ndarray(np.array(picture), format="rgb24").reformat(format="bgra")
        rows, columns = self.height - image.shape[0], self.width - image.shape[1]
        native = av.VideoFrame(image.shape[1], image.shape[0], form)
        if (rows or columns) and not self._scaled:
            native = to_yuv(np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge"), color, form)
        elif frame.yuv is None or _kinds(planes_of(native)) != _kinds(frame.yuv):
            native = to_yuv(image, color, form)
        else:
            paint(native, frame.yuv, frame.image, image, color)
        if self._scaled:
            native = native.reformat(self.width, self.height, interpolation=EXACT, threads=1)
        native.colorspace, native.color_range = color.matrix, color.range
        return native

    def _feed(self, until: Fraction | float) -> None:
        """Mux sound up to a time: in step with the picture, or the muxer holds one until the other comes."""
        for feed in self._feeds:
            while (packet := feed.before(until)) is not None:
                self._container.mux(packet)

    def close(self) -> None:
        """Finish the file and give it its name."""
        with self._guarded():
            self._container.mux(self._video.encode(None))
            self._feed(self._end + SLACK if self._kept is None else math.inf)
            for feed in self._feeds:
                feed.packets.close()
            self._container.close()
            self.notes += self._reader.notes if self._reader is not None else []
            if self._seal is not None:
                self._seal(self._part, self._sealed)
                self._sealed.replace(self._part)
            self._part.replace(self.path)
        self._unmark()

    def abort(self) -> None:
        """Delete the unfinished file."""
        with suppress(av.error.FFmpegError, OSError, AttributeError, ValueError):
            for feed in self._feeds:
                feed.packets.close()
            self._container.close()
        self._part.unlink(missing_ok=True)
        self._sealed.unlink(missing_ok=True)
        self._unmark()

    def _unmark(self) -> None:
        if self._mark >= 0:
            os.close(self._mark)
            self._mark = -1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.abort()
            if not isinstance(error, (av.error.FFmpegError, OSError)):
                raise
            raise UserError(
                f"{self.path}: cannot be written ({reason(error)}); check the folder's rights and space."
            ) from error


def _kinds(planes: list[Pixels]) -> list[Any]:
    return [(plane.shape, plane.dtype) for plane in planes]


def _with_palette(picture: Image.Image) -> av.VideoFrame:
    """A picture in 256 colours of its own."""
    few = picture.quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    colours = np.full((256, 4), 255, np.uint8)
    palette = np.asarray(few.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colours[: len(palette), 1:] = palette  # behind alpha
    indices: Any = (np.asarray(few), colours)
    return av.VideoFrame.from_ndarray(indices, format="pal8")


def check_codec(codec: str, pixel_format: str = "") -> None:
    """Raise UserError for a codec or a pixel format that is not known."""
    for name, given, known in (("codec", codec, CODECS), ("pixel_format", pixel_format or "yuv420p", PIXELS)):
        if given not in known:
            raise UserError(f"{name} is {given!r:.40}; it must be one of {', '.join(known)}")


def fitted(size: str, width: int, height: int) -> tuple[int, int]:
    """Width and height, both even, of pictures at another size, in their own shape.

    size: "720p": the shorter side; "640x480": at most so wide and so high. Raises UserError.
    """
    found = re.fullmatch(r"(\d{2,4})(?:p|x(\d{2,4}))", size)
    most = [int(number) for number in found.groups() if number] if found else []
    if not most or not all(MIN_SIDE <= side <= MAX_SIDE for side in most):
        raise UserError(
            f"size {size!r:.40}: 720p (the shorter side) or 640x480 is expected, of {MIN_SIDE} to {MAX_SIDE} "
            "pixels"
        )
    scale = most[0] / min(width, height) if len(most) == 1 else min(most[0] / width, most[1] / height)
    wide, high = (min(MAX_SIDE, max(MIN_SIDE, 2 * round(side * scale / 2))) for side in (width, height))
    return wide, high


def check_quality(quality: Any) -> float:
    """A constant rate factor as a float. Raises UserError for anything but a number from 0 to `WORST`."""
    try:
        number = math.nan if isinstance(quality, (bool, str)) else float(quality)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= WORST:
        raise UserError(f"quality is {quality!r:.40}; it must be a number from 0 (best) to {WORST:g}")
    return number


def _part_stem(path: Path) -> str:
    """The beginning of the names of a file's unfinished parts."""
    return shortened(path.stem, 32, path.name)  # for the dots, two numbers, the kind of part and the ending


def remove_parts(path: PathLike) -> None:
    """Remove unfinished parts of this file that killed processes left next to it."""
    for part in _parts(Path(path)):
        part.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove the parts of a file whose processes were killed; a sealed one is as its part."""
    with suppress(OSError):  # a folder that may be written to and not read
        for part in _parts(path):
            marked = part.with_name(re.sub(r"\.sealed(?=\.[^.]*$)", ".part", part.name))
            if abandoned(marked if marked.exists() else part):
                part.unlink(missing_ok=True)


def _parts(path: Path) -> list[Path]:
    """Unfinished parts of a file, of this and other processes."""
    left = re.compile(rf"\.{re.escape(_part_stem(path))}\.\d+-\d+\.(part|sealed){re.escape(path.suffix)}")
    return [part for part in path.absolute().parent.iterdir() if left.fullmatch(part.name)]


def _takes(format: str, audio: Any) -> bool:
    """Whether a container of this format takes the stream's packets as they are: its muxer is asked."""
    try:
        with av.open(io.BytesIO(), "w", format=format) as trial:
            trial.add_stream_from_template(audio)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


class _Feed:
    """Packets of a stream, by time."""

    def __init__(self, packets: Generator[Any, None, None]) -> None:
        self.packets, self.waiting = packets, None

    def before(self, until: Fraction | float) -> Any:
        """The next packet, if its time is before; else None."""
        self.waiting = self.waiting or next(self.packets, None)
        if self.waiting is None or self.waiting.pts * self.waiting.time_base >= until:
            return None
        packet, self.waiting = self.waiting, None
        return packet


def _zero(container: Any) -> Fraction:
    """The time stamp of a film's first frame, seconds."""
    video = streams(container)[0]
    frame = next(decoded_frames(container, video, []), None) if video is not None else None
    return Fraction(0) if frame is None or frame.pts is None else Fraction(frame.pts * video.time_base)


def _texts(path: Path, index: int, zero: Fraction, stream: Any) -> Generator[Any, None, None]:
    """A film's packets of subtitles."""
    with opened(path) as source:
        for packet in source.demux(source.streams[index]):
            if packet.pts is not None:
                shift = round(zero / packet.time_base)
                packet.pts = packet.dts = max(0, packet.pts - shift)
                packet.stream = stream
                yield packet


def _copied(reader: AudioReader, stream: Any) -> Generator[Any, None, None]:
    """The file's sound packets, each at the time at which the reader has its samples."""
    zero, end, last = reader.zero, None, -math.inf  # end: of the packet before
    with opened(reader.path) as source:
        for packet in source.demux(streams(source, reader.track)[1]):
            stamp = packet.pts if packet.dts is None else packet.dts
            if stamp is None:
                continue
            base, length = packet.time_base, packet.duration or 0
            start = stamp * base - zero
            if end is not None and anew(start, end):
                zero, start = zero + start - end, end
            elif end is not None and length and start + length * base <= end:  # the reader cuts overlaps too
                continue
            shift = round(zero / base)
            dts = stamp - shift
            if dts <= last:
                dts = last + math.ceil(MIN_STEP / base)  # so much is left of it by any container's clock
            packet.pts = max(dts, dts if packet.pts is None else packet.pts - shift)
            packet.dts = last = dts
            packet.stream = stream
            end = start + length * base
            yield packet


def _encoded(reader: AudioReader, stream: Any, rate: int, channels: int) -> Generator[Any, None, None]:
    given, layout = 0, "stereo" if channels == 2 else "mono"
    for samples in reader.blocks(rate, channels):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, given, Fraction(1, rate)
        given += samples.shape[1]
        yield from stream.encode(frame)
    yield from stream.encode(None)


def plain_info(width: int, height: int, fps: Fraction | float = PICTURE_FPS) -> MediaInfo:
    """For VideoWriter, when the frames come from no file: BT.709, limited range, constant frame rate."""
    rate = Fraction(fps).limit_denominator(1001)
    return MediaInfo(Path(), "video", width, height, fps=rate, time_base=1 / rate)


def through_codec(frames: Pixels, fps: Fraction | float, crf: int = 18) -> Pixels:
    """Frames (S, H, W, 3) after coding as H.264 4:2:0 and decoding.

    crf: the constant rate factor, 0 (best) to 51. The same frames give the same, on any number of cores.
    """
    return decoded(encoded(frames, fps, crf), frames.shape[1:3])


def encoded(frames: Pixels, fps: Fraction | float, crf: int = 18) -> bytes:
    """Frames (S, H, W, 3) as a file (Matroska) with H.264 4:2:0, repeatable; see `through_codec`."""
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    rate = Fraction(fps).limit_denominator(1001)
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        options = {"crf": str(crf), "preset": "fast"} | REPEATABLE
        stream: Any = container.add_stream(H264, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = even.shape[2], even.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1  # the number of threads changes what x264 decides
        for number, image in enumerate(even):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p", threads=1)
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def decoded(file: bytes, size: tuple[int, int]) -> Pixels:
    """The frames of what `encoded` made of frames of this height and width, (S, H, W, 3) uint8.

    Raises:
        ValueError: a damaged file.
    """
    with av.open(io.BytesIO(file), "r") as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.asarray(np.stack(pictures), np.uint8)[:, : size[0], : size[1]]


def can_encode(codec: str) -> bool:
    """Whether the linked FFmpeg has an encoder of this name."""
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True
