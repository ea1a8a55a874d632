"""Files <-> arrays: pictures, videos and sound, streamed through PyAV (and Pillow for pictures).

What is read becomes RGB uint8 (H, W, 3), upright, and mono float32 at 16 kHz; what is written keeps the
source's time stamps, size, colour tags and, where the container allows, its sound packets. However long a
file is, a bounded number of frames is held; nothing but ordinary local files is opened. What a user should
know, but need not act on, is collected in ``notes``. Choices [ours]:

- Alpha is shown on white; interlaced frames stay woven; HDR (PQ, HLG) is tone-mapped to BT.709.
- A picture is reduced to the largest frame of H.264 level 5.2 (4096 on the long side, 9.4 megapixels).
- Output is H.264 4:2:0, which cannot have an odd width or height: those become VP9, which browsers and phones
  play, never resized or cropped. ``lossless`` is H.264 in RGB, exactly the pixels given.
- Where a written pixel equals the source's, the encoder gets the source's own YUV samples: what was not
  touched does not pass through RGB, so neither rounding nor gamut clipping shifts its colour.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
import wave
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any, TypeAlias, cast

import av
import av.error
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Interpolation
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from moditalker.errors import UserError

Pixels: TypeAlias = NDArray[np.uint8]
Samples: TypeAlias = NDArray[np.float32]
PathLike: TypeAlias = str | os.PathLike[str]
Orientation: TypeAlias = tuple[bool, bool, bool]  # transpose, then flip horizontally, flip vertically

SAMPLE_RATE = 16_000  # Hz, of all sound that is read
PICTURE_FPS = Fraction(25)  # of a video made from a picture
SLACK = Fraction(1, 10)  # s: sound and video whose ends are this close end together
MIN_SECONDS = Fraction(1, 25)  # s of sound: one frame at 25 fps
MIN_STEP = Fraction(1, 1000)  # s from frame to frame, on average
MIN_SIDE, MAX_SIDE = 16, 8192  # pixels, of a video frame
MAX_PICTURE = 170_000_000  # pixels, of a picture before it is reduced
LEVEL_SIDE, LEVEL_PIXELS = 4096, 36_864 * 256  # the largest frame of H.264 level 5.2
CHUNK_BYTES = 32 << 20  # decoded frames that backward playing may hold
MAX_JUMP = 10  # s: a larger jump of sound time stamps is a mistake of the file
EXTEND = ("pingpong", "loop", "hold", "none")  # what the source does when the speech is longer
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}  # written, by file ending
# x264's macroblock tree gives other bits from run to run on processors with AVX-512.
REPEATABLE = {"mbtree": "0"}
H264, H264_RGB, VP9 = ENCODERS = ("libx264", "libx264rgb", "libvpx-vp9")  # what a written video may need

_PICTURES = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF")
_PQ, _HLG = 16, 18  # transfer characteristics (ITU-T H.273)
_MATRICES = (1, 2, 4, 5, 6, 7, 9)  # that the scaler knows; 2, "not said", it reads as BT.601
_EXACT = int(
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND
)  # without: half a grey level darker on average
_EXACT |= int(Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP)
_SCALER_REACH = 16  # pixels beyond a change that its conversion to YUV may reach, and more


@dataclass(frozen=True)
class Color:
    """Colour tags, as numbers of ITU-T H.273 (2: not said). ``range``: 1 limited, 2 full."""

    matrix: int = 1
    range: int = 1
    primaries: int = 1
    transfer: int = 1


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds. Sizes in pixels after rotation, times in seconds; what is unknown is None."""

    path: Path
    kind: str  # "picture", "video" or "audio"
    width: int = 0
    height: int = 0
    fps: Fraction = PICTURE_FPS  # nominal; the time stamps decide
    frames: int | None = None  # as the container declares, so possibly wrong; also seconds
    seconds: Fraction | None = None
    time_base: Fraction = 1 / PICTURE_FPS
    pixel_format: str = "rgb24"
    color: Color = Color()
    pixel_aspect: Fraction = Fraction(1)
    orientation: Orientation = (False, False, False)  # what makes the stored frames upright
    has_audio: bool = False
    audio_codec: str | None = None
    sample_rate: int | None = None
    channels: int | None = None


@dataclass(frozen=True)
class Frame:
    """``image`` (H, W, 3) uint8 RGB, shown from ``time`` for ``duration`` seconds, both exact.

    ``index`` counts the source's frames; it returns when the source is played back and forth. ``yuv``: the
    same content as 8-bit 4:2:0 planes, as the file holds it.
    """

    index: int
    time: Fraction
    duration: Fraction
    image: Pixels
    yuv: list[Pixels] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Clip:
    """A short clip in memory: frames (S, H, W, 3) uint8 RGB, audio (N,) float32 mono in [-1, 1]."""

    frames: Pixels
    fps: Fraction
    audio: Samples
    sample_rate: int = SAMPLE_RATE


# ------------------------------------------------------------------------------------------------ opening


def _local(path: PathLike) -> Path:
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file; check the name and the folder.")
    if not path.is_file():
        raise UserError(f"{path}: this is not a file; give one picture, video or sound file.")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes); a picture, video or sound is needed.")
    return path


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a local file for reading; what goes wrong in the block, too, becomes a UserError."""
    try:
        # Prefix and whitelist: no playlist, and no name that looks like an address, may reach the network.
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
            yield container
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as picture, video or sound ({_reason(error)}); it is something else, "
            "damaged or cut off: export it again, for example as .mp4, .png or .wav."
        ) from error


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)


def _streams(container: av.container.InputContainer) -> tuple[Any, Any]:
    """The video stream (not a cover picture) and the audio stream, or None; typed Any to spare casts."""
    cover = av.stream.Disposition.attached_pic
    video = next((s for s in container.streams.video if s.codec_context and not s.disposition & cover), None)
    if video is not None:
        video.codec_context.thread_type = "AUTO"
        video.codec_context.thread_count = min(4, os.cpu_count() or 1)
    return video, next((s for s in container.streams.audio if s.codec_context), None)


def _decoded(container: av.container.InputContainer, stream: Any, damage: list[str]) -> Iterator[Any]:
    """A stream's frames; pieces that cannot be decoded are skipped and noted in ``damage``."""
    packets = container.demux(stream)
    while len(damage) < 10_000:
        try:
            if (packet := next(packets, None)) is None:
                return
            frames = packet.decode()
        except av.error.EOFError:
            continue
        except (av.error.FFmpegError, ValueError) as error:
            damage.append(_reason(error))
            continue
        yield from frames


def _still(path: Path) -> Image.Image | None:
    """Open a still picture without decoding it; None if the file is something else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warning about size: there is a limit of our own
            picture = Image.open(path, formats=_PICTURES)
        return None if picture.format == "GIF" and getattr(picture, "is_animated", False) else picture
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path}: the picture has more than {MAX_PICTURE // 10**6} megapixels; reduce it to fewer."
        ) from error
    except Exception:  # its plugins raise many kinds on what they don't know
        return None


def probe(path: PathLike) -> MediaInfo:
    """Find out what a file holds; of a video, one frame is decoded. Raises UserError if it cannot be read."""
    path = _local(path)
    if (picture := _still(path)) is not None:
        with picture:
            width, height = picture.size
            with suppress(
                Exception
            ):  # of damaged tags; asked of other formats, Pillow would decode the picture
                if ("exif" in picture.info or picture.format == "TIFF") and picture.getexif().get(
                    0x0112, 1
                ) >= 5:
                    width, height = height, width
            return MediaInfo(path, "picture", width, height, pixel_format=picture.mode)
    with _opened(path) as container:
        video, audio = _streams(container)
        if video is None and audio is None:
            raise UserError(
                f"{path}: it holds neither picture nor sound; give a picture, video or sound file."
            )
        seconds = None if container.duration is None else Fraction(container.duration, av.time_base)
        info = MediaInfo(path, "audio", seconds=seconds, has_audio=audio is not None)
        if audio is not None:
            codec = audio.codec_context
            info = replace(info, audio_codec=codec.codec.canonical_name)
            info = replace(info, sample_rate=codec.sample_rate, channels=codec.channels)
        return info if video is None else _probe_video(info, container, video)


def _probe_video(info: MediaInfo, container: av.container.InputContainer, video: Any) -> MediaInfo:
    width, height = video.codec_context.width, video.codec_context.height
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise UserError(
            f"{info.path}: a video of {width}x{height} pixels; each side must have {MIN_SIDE} to {MAX_SIDE}: "
            "scale it."
        )
    first = next(_decoded(container, video, []), None)
    if first is None:
        raise UserError(f"{info.path}: no frame of the video can be decoded; it is damaged: export it again.")
    orientation, aspect = _orientation(first), Fraction(video.sample_aspect_ratio or 1)
    if orientation[0]:
        width, height, aspect = height, width, 1 / aspect
    rates = (video.average_rate, video.guessed_rate, PICTURE_FPS)
    span = 2 if first.color_range == 2 or first.format.name.startswith("yuvj") else 1
    return replace(
        info,
        kind="video",
        width=width,
        height=height,
        fps=next(rate for rate in rates if rate and 1 <= rate <= 480),
        frames=video.frames or None,
        seconds=video.duration * video.time_base if video.duration else info.seconds,
        time_base=video.time_base,
        pixel_format=first.format.name,
        color=Color(_matrix(first.colorspace), span, first.color_primaries, first.color_trc),
        pixel_aspect=aspect,
        orientation=orientation,
    )


# ------------------------------------------------------------------------------------------------- pixels


def _orientation(frame: av.VideoFrame) -> Orientation:
    """What the frame's display matrix asks for. (Ask once a file: the side data outlive their frame.)"""
    for data in cast(Any, frame.side_data):
        if data.type == SideData.DISPLAYMATRIX:
            a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
            return (False, a < 0, d < 0) if abs(a) + abs(d) >= abs(b) + abs(c) else (True, c < 0, b < 0)
    return False, False, False


def _upright(image: Pixels, orientation: Orientation) -> Pixels:
    transpose, flip_x, flip_y = orientation
    image = image.swapaxes(0, 1) if transpose else image
    return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _matrix(colorspace: int) -> int:
    return colorspace if colorspace in _MATRICES else 1


def _planes(frame: av.VideoFrame) -> list[Pixels]:
    """Views of the frame's 8-bit planes, without the padding of their lines."""
    rows = (np.frombuffer(cast(Any, p), np.uint8).reshape(-1, p.line_size) for p in frame.planes)
    return [row[: p.height, : p.width] for row, p in zip(rows, frame.planes, strict=True)]


def _to_yuv(image: Pixels, color: Color) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    tags: dict[str, Any] = {"dst_colorspace": color.matrix, "dst_color_range": color.range}
    return frame.reformat(format="yuv420p", interpolation=_EXACT, threads=1, **tags)


def _paint(planes: list[Pixels], own: list[Pixels], before: Pixels, after: Pixels, color: Color) -> None:
    """Fill the planes of a frame with its own samples (before), changed by what makes it look like after."""
    for plane, samples in zip(planes, own, strict=True):
        plane[:] = samples
    changed = before != after  # H W 3
    rows = np.flatnonzero(changed.reshape(len(changed), -1).any(1))
    columns = np.flatnonzero(changed.any(0).any(1))
    if not len(rows):
        return
    top, left = (max(0, line[0] - _SCALER_REACH) // 2 * 2 for line in (rows, columns))
    bottom, right = ((line[-1] + 2 + _SCALER_REACH) // 2 * 2 for line in (rows, columns))
    # Both conversions round alike: their difference is the change alone, and 0 where nothing changed.
    new, old = (_planes(_to_yuv(image[top:bottom, left:right], color)) for image in (after, before))
    for plane, painted, source, step in zip(planes, new, old, (1, 2, 2), strict=True):
        part = plane[top // step :, left // step :][: len(painted), : painted.shape[1]]
        part[:] = (part.astype(np.int16) + painted - source).clip(0, 255)


def _light(transfer: int) -> Samples:
    """Light of each 16-bit code value of PQ or HLG; 1 is diffuse white (203 cd/m2, ITU-R BT.2408)."""
    code = np.arange(65536) / 65535
    if transfer == _PQ:
        root = code ** (32 / 2523)
        light = 10_000 * (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (8192 / 1305)
    else:
        scene = np.where(
            code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
        )
        light = 1000 * scene**1.2
    return cast(Samples, (light / 203).astype(np.float32))


_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def _tone_mapped(light: Samples) -> Pixels:
    """Light (H, W, 3) of BT.2020 -> BT.709 pixels: highlights above 3/4 of diffuse white are rolled off."""
    light = np.maximum(light @ _BT2020_TO_BT709.T, 0)
    light = np.where(light < 0.75, light, 1 - 0.25 * np.exp((0.75 - light) / 0.25))
    return cast(Pixels, (255 * light ** (1 / 2.2) + 0.5).astype(np.uint8))


# ------------------------------------------------------------------------------------------------ reading


def read_picture(path: PathLike) -> tuple[Pixels, list[str]]:
    """Read a picture -> (H, W, 3) uint8 RGB, and notes. Raises UserError.

    EXIF orientation and colour profile are applied, alpha is shown on white, 16 bits become 8, and what is
    larger than a frame of H.264 level 5.2 is reduced.
    """
    path = _local(path)
    if (opened := _still(path)) is None:
        raise UserError(
            f"{path}: this is no picture that can be read; give a PNG, JPEG, WebP, BMP or TIFF file."
        )
    notes = []
    with opened as picture:
        width, height = picture.size
        if min(width, height) < MIN_SIDE or width * height > MAX_PICTURE:
            raise UserError(
                f"{path}: a picture of {width}x{height} pixels; each side must have at least {MIN_SIDE}, the "
                f"whole at most {MAX_PICTURE // 10**6} megapixels: choose another."
            )
        try:
            scale = min(1.0, LEVEL_SIDE / max(width, height), math.sqrt(LEVEL_PIXELS / (width * height)))
            size = (int(width * scale) // 2 * 2, int(height * scale) // 2 * 2)
            if scale < 1:
                picture.draft(None, size)  # lets a JPEG decode at 1/2, 1/4 or 1/8 at once
            image = _eight_bits(picture)
            if scale < 1:
                image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
                notes.append(
                    f"{path.name}: reduced from {width}x{height} to {size[0]}x{size[1]} (H.264 level 5.2)."
                )
            if "A" in image.mode:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
                notes.append(f"{path.name}: transparent parts are shown on white.")
            image = _to_srgb(image, picture.info.get("icc_profile")).convert("RGB")
            image.getexif()[0x0112] = picture.getexif().get(0x0112, 1)
            return np.asarray(ImageOps.exif_transpose(image)), notes
        except Exception as error:  # damaged files raise many kinds
            raise UserError(f"{path}: the picture is damaged or cut off ({error}); save it again.") from error


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):  # 16-bit grey, 32-bit integers, floats
        values = np.nan_to_num(np.asarray(picture).astype(np.float32))
        peak = 1 if picture.mode == "F" and values.max() <= 1 else 65535
        return Image.fromarray(((values / peak).clip(0, 1) * 255 + 0.5).astype(np.uint8))
    return picture.convert("RGBA") if picture.mode == "P" or "transparency" in picture.info else picture


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply an embedded colour profile (phones write Display P3); one that does not fit is ignored."""
    if profile and image.mode in ("RGB", "CMYK"):
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            result = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            return result or image
    return image


class Picture:
    """A still picture as a source of one frame, forwards and backwards."""

    def __init__(self, path: PathLike) -> None:
        image, self.notes = read_picture(path)
        self.info = MediaInfo(Path(path), "picture", image.shape[1], image.shape[0], frames=1)
        self._frame = Frame(0, Fraction(0), 1 / self.info.fps, image)

    def __iter__(self) -> Iterator[Frame]:
        yield self._frame

    __reversed__ = __iter__


class VideoReader:
    """Frames of a video with exact times (the first is 0), as often as wanted, forwards and ``reversed``.

    Backwards decodes from key frames in chunks of CHUNK_BYTES, so that memory does not grow with length; it
    is slow only where key frames are rare. ``planes``: give each frame's own YUV samples too, which
    VideoWriter keeps where nothing was painted. Raises UserError if there is no video; damage within one
    becomes a note.
    """

    def __init__(self, path: PathLike, planes: bool = True) -> None:
        self.info = probe(path)
        self.notes: list[str] = []
        if self.info.kind != "video":
            raise UserError(f"{path}: there is no video in it; give a video, or a picture, of a face.")
        self._light: Samples | None = None
        if self.info.color.transfer in (_PQ, _HLG):
            self._light = _light(self.info.color.transfer)
            self.info = replace(self.info, color=Color())
            self.notes.append(f"{self.info.path.name}: HDR is tone-mapped to 8 bits of BT.709.")
        even = self.info.width % 2 == self.info.height % 2 == 0
        self._planes = planes and even and self._light is None
        self._ticks = array("q")  # after a forward pass: each frame's time in units of the time base,
        self._stamps = array("q")  # the file's own stamp of it,
        self._keys: list[int] = []  # and the indices of key frames
        self._last = 1  # duration of the last frame, in units of the time base

    def __iter__(self) -> Iterator[Frame]:
        base = self.info.time_base
        step = max(1, round(1 / self.info.fps / base))
        ticks, stamps, keys = array("q"), array("q"), []
        shift: int | None = None
        damage: list[str] = []
        held: Any = None  # a frame's duration is known when the next one comes
        with _opened(self.info.path) as container:
            for native in _decoded(container, _streams(container)[0], damage):
                last = ticks[-1] if ticks else -step
                stamp = last + step - (shift or 0) if native.pts is None else native.pts
                shift = -stamp if shift is None else shift
                tick = stamp + shift
                if last - 1 / base < tick <= last:  # two frames with one stamp
                    tick = last + 1
                elif not last < tick < last + 600 / base:  # the clock was set anew
                    shift, tick = shift + last + step - tick, last + step
                if native.key_frame:
                    keys.append(len(ticks))
                ticks.append(tick)
                stamps.append(stamp)
                if held is not None:
                    yield self._frame(held, len(ticks) - 2, last, tick - last)
                held = native
            if held is None:
                raise UserError(f"{self.info.path}: no frame of the video can be decoded; export it again.")
            final = held.duration if held.duration and held.duration * base >= MIN_STEP else step
            yield self._frame(held, len(ticks) - 1, ticks[-1], final)
        if not self._ticks:
            self._ticks, self._stamps, self._keys, self._last = ticks, stamps, keys, final
            self._report(damage)

    def _report(self, damage: list[str]) -> None:
        name, found, declared = self.info.path.name, len(self._ticks), self.info.frames
        end, seconds = (self._ticks[-1] + self._last) * self.info.time_base, self.info.seconds
        if damage:
            self.notes.append(
                f"{name}: {len(damage)} damaged pieces of the video were skipped ({damage[0]})."
            )
        if declared and declared > found:
            self.notes.append(f"{name}: {found} of the {declared} frames it declares could be decoded.")
        elif declared is None and seconds and seconds > end + 1:
            self.notes.append(
                f"{name}: ends after {float(end):.2f} s of the {float(seconds):.2f} s it declares."
            )

    def _frame(self, native: Any, index: int, tick: int, duration: int) -> Frame:
        """Convert a decoded frame. SDR takes the scaler's default path, as in most software, so that frames
        can be compared with what other software decodes."""
        info, span = self.info, self.info.color.range
        width, height = (info.height, info.width) if info.orientation[0] else (info.width, info.height)
        fits = (native.width, native.height) == (width, height)
        note = f"{info.path.name}: the frame size changes inside the video; all frames get the first one's."
        if not fits and note not in self.notes:
            self.notes.append(note)
        matrix = _matrix(native.colorspace)
        if self._light is None:
            rgb = native.reformat(width, height, "rgb24", src_colorspace=matrix, threads=1)
            image = rgb.to_ndarray()
        else:
            rgb = native.reformat(
                width, height, "rgb48le", src_colorspace=matrix, interpolation=_EXACT, threads=1
            )
            image = _tone_mapped(self._light[rgb.to_ndarray()])
        yuv = None
        if self._planes and fits and native.format.name.startswith(("yuv", "nv")):
            tags = {"src_color_range": span, "dst_color_range": span}
            eight = native.reformat(format="yuv420p", interpolation=_EXACT, threads=1, **tags)
            yuv = [_upright(plane, info.orientation) for plane in _planes(eight)]
        base = info.time_base
        return Frame(index, tick * base, duration * base, _upright(image, info.orientation), yuv)

    def __reversed__(self) -> Iterator[Frame]:
        if not self._ticks:
            deque(self, maxlen=0)
        chunk = max(8, min(128, CHUNK_BYTES // (self.info.width * self.info.height * 3 // 2)))
        follower = self._ticks[-1] + self._last
        for stop in range(len(self._ticks), 0, -chunk):
            natives = self._between(max(0, stop - chunk), stop)
            for index in range(stop - 1, stop - 1 - len(natives), -1):
                tick = self._ticks[index]
                yield self._frame(natives.pop(), index, tick, follower - tick)
                follower = tick

    def _between(self, start: int, stop: int) -> list[Any]:
        """Decoded frames start..stop-1: from the nearest key frame if seeking works, else from the first."""
        wanted, base = self._stamps[start:stop], self.info.time_base
        key = self._stamps[max((key for key in self._keys if key <= start), default=0)]
        seeks = [key, key - int(2 / base)]  # some containers land behind the key frame that was asked for
        if (
            start == 0 or self._stamps[-1] - self._stamps[0] != self._ticks[-1]
        ):  # stamps were missing or mended
            seeks = []
        for seek in seeks:
            with _opened(self.info.path) as container:
                stream = _streams(container)[0]
                container.seek(seek, stream=stream)
                found: list[Any] = []
                clean = False  # from a key frame on, all is decoded as in the forward pass
                for native in _decoded(container, stream, []):
                    stamp = wanted[0] - 1 if native.pts is None else native.pts
                    clean = clean or (native.key_frame and stamp <= wanted[0])
                    if clean and stamp >= wanted[0]:
                        found.append(native)
                    if stamp >= wanted[-1]:
                        break
                if array("q", [native.pts for native in found]) == wanted:
                    return found
        with _opened(self.info.path) as container:
            return list(islice(_decoded(container, _streams(container)[0], []), start, stop))


Source: TypeAlias = Picture | VideoReader
Length: TypeAlias = Fraction | float | Callable[[Fraction], Fraction]  # seconds; see `plan_frames`


def open_source(path: PathLike) -> Source:
    """Open a face: a picture or a video. Raises UserError, also for a file with sound only."""
    return Picture(path) if probe(path).kind == "picture" else VideoReader(path)


def plan_frames(source: Source, seconds: Length, extend: str = "pingpong") -> Iterator[Frame]:
    """The output's frames, with the output's times, for so many seconds of speech.

    Where these are not known yet, ``seconds`` is a function that says, for any time, how long the speech is,
    or any number beyond that time if it is longer. It is asked at most SLACK ahead of the next frame.

    A picture gives ceil(seconds x fps) frames. A video that is longer than the speech ends with it; a shorter
    one goes on by ``extend``: "pingpong" (back and forth), "loop", "hold" (its last frame), or "none" (ends
    before the speech). If the two ends are within SLACK, which is the usual padding of audio codecs, the
    frames are exactly the video's. Each frame keeps its own duration, also backwards. Raises UserError for
    another ``extend``.
    """
    if extend not in EXTEND:
        raise UserError(f"extend is {extend!r}; it must be one of {', '.join(EXTEND)}.")
    still = source.info.kind == "picture"
    slack = Fraction(0) if still else SLACK
    length = seconds if callable(seconds) else lambda _: seconds
    end, tail = Fraction(0), list[Frame]()  # frames behind the speech count if the video ends there too
    for frame in source:
        if frame.time >= length(frame.time - slack) + slack:
            return
        if frame.time >= length(frame.time):
            tail.append(frame)
        else:
            yield frame
        end = frame.time + frame.duration
    if end <= length(end - slack) + slack:
        yield from tail
    if length(end + slack) - end <= slack:
        return
    if frame.time < frame.index * MIN_STEP:
        raise UserError(
            f"{source.info.path}: {frame.index + 1} frames in {float(end):.4f} s, more than {1 / MIN_STEP} "
            "a second; its time stamps are damaged: export it again."
        )
    for frame in _continued(source, "hold" if still else extend, end):
        if frame.time >= length(frame.time):
            return
        yield frame


def _continued(source: Source, extend: str, time: Fraction) -> Iterator[Frame]:
    """What follows the last frame: for ever, except for "none"."""
    if extend == "none":
        return
    if extend == "hold" or next(islice(source, 1, None), None) is None:
        last = next(iter(reversed(source)))
        yield from (replace(last, time=time + turn * last.duration) for turn in count())
    for turn in count():
        back = extend == "pingpong" and turn % 2 == 0
        shown = (
            1 if extend == "pingpong" else 0
        )  # the frame at which the direction turns is on screen already
        for frame in islice(reversed(source) if back else source, shown, None):
            yield replace(frame, time=time)
            time += frame.duration


# -------------------------------------------------------------------------------------------------- sound


class AudioReader:
    """The sound of a file, iterated as chunks of mono float32 in [-1, 1] at 16 kHz.

    Time 0 is the first frame of the file's video if it has one, else the first sample; gaps between time
    stamps become silence and overlaps are cut, so that sample n is heard at n / 16000 s. In the mono mix of
    surround sound the centre counts 1, front 0.71, back and side 0.5, low frequencies 0, divided by their
    sum: nothing clips. Raises UserError if there is no sound.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = _local(path)
        self.notes: list[str] = []
        with _opened(self.path) as container:
            if _streams(container)[1] is None:
                raise UserError(f"{path}: there is no sound track in it; give a file with speech.")

    @cached_property
    def zero(self) -> Fraction:
        """The file's own time stamp of time 0, seconds."""
        with _opened(self.path) as container:
            video, audio = _streams(container)
            first = next((frame for frame in _decoded(container, audio, []) if frame.pts is not None), None)
            start = Fraction(0) if first is None else first.pts * first.time_base
            shown = start if video is None else (video.start_time or 0) * video.time_base
            return cast(Fraction, shown if abs(start - shown) <= MAX_JUMP else start)

    @cached_property
    def seconds(self) -> Fraction:
        """Exact length, found by decoding it all. Raises UserError below MIN_SECONDS."""
        end = Fraction(0)
        for frame, start in self._timed():
            end = start + Fraction(frame.samples, frame.sample_rate)
        if end < MIN_SECONDS:
            raise UserError(
                f"{self.path}: {float(end):.3f} s of sound; at least {float(MIN_SECONDS):.2f} s, one frame "
                "at 25 fps, is needed: give a longer recording."
            )
        return end

    def _timed(self) -> Iterator[tuple[Any, Fraction]]:
        """Decoded frames and their start: samples are counted while the (rounded) stamps agree with that."""
        expected, zero, tolerance, damage = Fraction(0), self.zero, Fraction(0), list[str]()
        with _opened(self.path) as container:
            for frame in _decoded(container, _streams(container)[1], damage):
                if not frame.samples or not frame.sample_rate:
                    continue
                start = expected if frame.pts is None else frame.pts * frame.time_base - zero
                if abs(start - expected) > MAX_JUMP:
                    zero += start - expected  # the clock was set anew
                    start = expected
                elif abs(start - expected) <= tolerance:
                    start = expected
                yield frame, start
                expected, tolerance = start + Fraction(frame.samples, frame.sample_rate), Fraction(1, 20)
        if damage and not self.notes:
            self.notes.append(f"{self.path.name}: {len(damage)} damaged pieces of the sound were skipped.")

    def blocks(self, rate: int, channels: int) -> Iterator[Samples]:
        """The sound at any rate as mono or stereo: (channels, n <= rate) float32 in [-1, 1]."""
        resampler, form, mix = None, None, np.zeros((channels, 0), np.float32)
        given, skip, expected = 0, 0, Fraction(0)  # samples given, samples to be cut, end of the last frame

        def taken(frames: list[av.AudioFrame]) -> Iterator[Samples]:
            nonlocal given, skip
            for frame in frames:
                packed = frame.to_ndarray().reshape(frame.samples, -1)  # planes would end at 8 channels
                samples = (mix @ np.nan_to_num(packed[skip:]).T).clip(-1, 1)
                skip, given = max(0, skip - frame.samples), given + samples.shape[1]
                yield from (samples[:, i : i + rate] for i in range(0, samples.shape[1], rate))

        for frame, start in self._timed():
            if start != expected or form != (frame.format.name, frame.layout.name, frame.sample_rate):
                if resampler is not None:
                    yield from taken(resampler.resample(None))
                form = (frame.format.name, frame.layout.name, frame.sample_rate)
                resampler = av.AudioResampler("flt", frame.layout, rate)
                mix = _mix([channel.name for channel in frame.layout.channels], channels)
                gap = round(start * rate) - given
                skip = max(0, -gap)
                for i in range(0, gap, rate):
                    yield np.zeros((channels, min(rate, gap - i)), np.float32)
                given += max(0, gap)
            expected, frame.pts = start + Fraction(frame.samples, frame.sample_rate), None
            yield from taken(cast(av.AudioResampler, resampler).resample(frame))
        if resampler is not None:
            yield from taken(resampler.resample(None))

    def __iter__(self) -> Iterator[Samples]:
        return (samples[0] for samples in self.blocks(SAMPLE_RATE, 1))

    def read(self, seconds: float | None = None) -> Samples:
        """All the sound, or its first seconds, as one array (N,)."""
        limit = None if seconds is None else round(seconds * SAMPLE_RATE)
        chunks, total = [np.zeros(0, np.float32)], 0
        for chunk in self:
            chunks.append(chunk)
            total += len(chunk)
            if limit is not None and total >= limit:
                break
        return np.concatenate(chunks)[:limit]


def _mix(names: list[str], outputs: int) -> Samples:
    """Weights (outputs, channels) from named channels to mono or stereo; each row adds up to 1."""
    if outputs == len(names):
        return np.eye(outputs, dtype=np.float32)
    weights = np.array([{"LF": 0, "FC": 1, "FL": 0.71, "FR": 0.71}.get(name[:2], 0.5) for name in names])
    sides = [[True] * len(names)] if outputs == 1 else [[not n.endswith(o) for n in names] for o in "RL"]
    rows = weights * np.array(sides)
    rows[rows.sum(1) == 0] = 1  # nothing but low frequencies, or one side only
    return cast(Samples, (rows / rows.sum(1, keepdims=True)).astype(np.float32))


def resampled(chunks: Iterable[Samples], rate: int) -> Iterator[Samples]:
    """Mono sound (n,) at a rate -> the same at 16 kHz, whatever the chunks' sizes."""
    if rate == SAMPLE_RATE:
        yield from chunks
        return
    resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)

    def given() -> Iterator[av.AudioFrame | None]:
        for chunk in chunks:
            for i in range(0, len(chunk), rate):
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(chunk[None, i : i + rate]), "flt", "mono"
                )
                frame.sample_rate = rate
                yield frame
        yield None

    for frame in given():
        for piece in resampler.resample(frame):
            yield piece.to_ndarray()[0].clip(-1, 1)


# ------------------------------------------------------------------------------------------------ writing


class VideoWriter:
    """Writes frames and a file's sound. A context manager: the file appears only if the block succeeds.

    ``info`` gives size, time base, colour tags and pixel aspect: the source's, or ``plain_info``. ``audio``:
    a file whose sound packets are copied untouched if the container takes them, else encoded as AAC, which
    ``notes`` says; uncompressed sound in .mp4 always is, since no browser or phone plays it there.
    ``recode_audio`` asks for AAC. Sound that goes on for more than SLACK behind the video is cut. .mkv rounds
    all times to milliseconds. ``seal`` makes the file that appears out of the encoded one: source, target.
    Raises UserError for an ending, folder, size or disk that cannot take the file.
    """

    def __init__(
        self,
        path: PathLike,
        info: MediaInfo,
        audio: PathLike | None = None,
        *,
        lossless: bool = False,
        recode_audio: bool = False,
        metadata: dict[str, str] | None = None,
        seal: Callable[[Path, Path], None] | None = None,
    ) -> None:
        self.path, self.info, self.notes = Path(path), info, list[str]()
        self._seal = seal
        self._format = FORMATS.get(self.path.suffix.lower(), "")
        if not self._format:
            raise UserError(
                f"{path}: a video is written as {', '.join(FORMATS)}; choose one of these endings."
            )
        if not self.path.absolute().parent.is_dir():
            raise UserError(f"{path}: the folder does not exist; create it or choose another.")
        self._rgb, self._end, self._last_pts = lossless, Fraction(0), -1
        self._sound: Generator[Any, None, None] = (None for _ in ())
        self._waiting: Any = None  # a sound packet whose time has not come
        self._part, self._sealed = (
            self.path.with_name(f".{self.path.stem}.{os.getpid()}.{name}{self.path.suffix}")
            for name in ("part", "sealed")
        )
        reader = None if audio is None else AudioReader(audio)
        # Matroska holds the negative stamps of codecs that start before 0; its muxer would rather shift all.
        options = (
            {"avoid_negative_ts": "disabled"} if self._format == "matroska" else {"movflags": "+faststart"}
        )
        with self._guarded():
            self._container = av.open(
                f"file:{self._part}", "w", format=self._format, container_options=options
            )
            self._container.metadata.update(metadata or {})
            self._video = self._add_video()
            if reader is not None:
                self._add_sound(reader, recode_audio)

    def _add_video(self) -> Any:
        info = self.info
        # As near to our frames as preset "fast" at 16, in half the time, for files a tenth larger.
        codec, options = H264, {"crf": "15", "preset": "veryfast"} | REPEATABLE
        if self._rgb:
            codec, options = H264_RGB, {"qp": "0", "preset": "ultrafast"}
        elif info.width % 2 or info.height % 2:
            if self._format == "mov":
                raise UserError(
                    f"{self.path}: .mov cannot hold {info.width}x{info.height}, an odd size; write .mp4."
                )
            codec, options = VP9, {"crf": "10", "b": "0", "deadline": "realtime", "cpu-used": "6"}
            self.notes.append(
                f"{info.width}x{info.height} has an odd side, which H.264 cannot: encoded as VP9."
            )
        stream: Any = self._container.add_stream(codec, rate=info.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = (
            info.width,
            info.height,
            "rgb24" if self._rgb else "yuv420p",
        )
        stream.time_base = stream.codec_context.time_base = info.time_base
        stream.codec_context.sample_aspect_ratio = info.pixel_aspect
        stream.codec_context.color_primaries = info.color.primaries
        stream.codec_context.color_trc = info.color.transfer
        if not self._rgb:
            stream.codec_context.colorspace, stream.codec_context.color_range = (
                info.color.matrix,
                info.color.range,
            )
        return stream

    def _add_sound(self, reader: AudioReader, recode: bool) -> None:
        name, mp4 = reader.path.name, self._format == "mp4"
        with _opened(reader.path) as source:
            audio = _streams(source)[1]
            codec, rate = audio.codec_context.codec.canonical_name, audio.codec_context.sample_rate
            channels = min(2, audio.codec_context.channels)
            raw = codec.startswith("pcm") and mp4
            if not recode and not raw and _takes(self._format, audio):
                self._sound = _copied(reader, self._container.add_stream_from_template(audio))
                if mp4 and codec not in ("aac", "mp3", "opus", "flac"):
                    self.notes.append(
                        f"{name}: its {codec} sound is copied untouched; browsers may need AAC."
                    )
                return
        rate = rate if rate in (av.Codec("aac", "w").audio_rates or ()) else 48_000
        encoder: Any = self._container.add_stream("aac", rate=rate)
        encoder.layout, encoder.bit_rate = "stereo" if channels == 2 else "mono", 96_000 * channels
        self._sound = _encoded(reader, encoder, rate, channels)
        way = "; .mov or .mkv would keep it as it is" if raw else ""
        self.notes.append(f"{name}: its {codec} sound is encoded as AAC{way}.")

    def write(self, frame: Frame, image: Pixels | None = None) -> None:
        """Append a frame, shown from ``frame.time``; ``image`` (H, W, 3) uint8 replaces the frame's own."""
        image = frame.image if image is None else image
        if image.shape != (self.info.height, self.info.width, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"{image.shape} {image.dtype} is not ({self.info.height}, {self.info.width}, 3) uint8"
            )
        pts = round(frame.time / self.info.time_base)
        if pts <= self._last_pts:
            raise ValueError(
                f"a frame at {frame.time} s follows one at {self._last_pts * self.info.time_base} s"
            )
        with self._guarded():
            native = self._native(frame, image)
            native.pts, native.time_base = pts, self.info.time_base
            native.duration = max(1, round(frame.duration / self.info.time_base))
            self._container.mux(self._video.encode(native))
            self._last_pts, self._end = pts, frame.time + frame.duration
            self._feed(frame.time)

    def _native(self, frame: Frame, image: Pixels) -> av.VideoFrame:
        if self._rgb:
            return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        color = self.info.color
        if frame.yuv is None or frame.yuv[0].shape != image.shape[:2]:
            native = _to_yuv(image, color)
        else:
            native = av.VideoFrame(image.shape[1], image.shape[0], "yuv420p")
            _paint(_planes(native), frame.yuv, frame.image, image, color)
        native.colorspace, native.color_range = color.matrix, color.range
        return native

    def _feed(self, until: Fraction) -> None:
        """Mux sound up to a time: in step with the picture, or the muxer holds one until the other comes."""
        while True:
            self._waiting = self._waiting or next(self._sound, None)
            if self._waiting is None or self._waiting.pts * self._waiting.time_base >= until:
                return
            self._container.mux(self._waiting)
            self._waiting = None

    def close(self) -> None:
        """Finish the file and give it its name."""
        with self._guarded():
            self._container.mux(self._video.encode(None))
            self._feed(self._end + SLACK)
            self._sound.close()
            self._container.close()
            if self._seal is not None:
                self._seal(self._part, self._sealed)
                self._sealed.replace(self._part)
            self._part.replace(self.path)

    def abort(self) -> None:
        """Leave nothing behind."""
        with suppress(av.error.FFmpegError, OSError, AttributeError, ValueError):
            self._sound.close()
            self._container.close()
        self._part.unlink(missing_ok=True)
        self._sealed.unlink(missing_ok=True)

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
                f"{self.path}: cannot be written ({_reason(error)}); check the folder's rights and space."
            ) from error


def remove_parts(path: PathLike) -> None:
    """Remove what writers of this file, whose processes were killed, have left beside it."""
    path = Path(path)
    left = re.compile(rf"\.{re.escape(path.stem)}\.\d+\.(part|sealed){re.escape(path.suffix)}")
    for part in path.absolute().parent.iterdir():
        if left.fullmatch(part.name):
            part.unlink(missing_ok=True)


def _takes(format: str, audio: Any) -> bool:
    """Whether a container of this format takes the stream's packets as they are: its muxer is asked."""
    try:
        with av.open(io.BytesIO(), "w", format=format) as trial:
            trial.add_stream_from_template(audio)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _copied(reader: AudioReader, stream: Any) -> Generator[Any, None, None]:
    """The file's sound packets, moved so that the reader's time 0 is 0."""
    with _opened(reader.path) as source:
        last = -math.inf
        for packet in source.demux(_streams(source)[1]):
            if packet.pts is None and packet.dts is None:
                continue
            shift = round(reader.zero / packet.time_base)
            dts = max(last + 1, (packet.pts if packet.dts is None else packet.dts) - shift)
            packet.pts = max(dts, dts if packet.pts is None else packet.pts - shift)
            packet.dts = last = dts
            packet.stream = stream
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


def read_clip(path: PathLike, max_seconds: float | None = None) -> Clip:
    """Read a short video, or its first seconds, into memory; without a sound track, ``audio`` is empty."""
    reader = VideoReader(path, planes=False)
    wanted = takewhile(lambda frame: max_seconds is None or frame.time < max_seconds, reader)
    frames = [frame.image for frame in wanted]
    audio = AudioReader(path).read(max_seconds) if reader.info.has_audio else np.zeros(0, np.float32)
    return Clip(np.stack(frames), reader.info.fps, audio)


def write_wav(path: Path, samples: NDArray[np.floating]) -> None:
    """Sound (N,) in [-1, 1] at SAMPLE_RATE as 16-bit WAV; the file appears whole or not at all."""
    part = path.with_suffix(".part")
    with wave.open(str(part), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    part.replace(path)


def through_codec(frames: Pixels, fps: Fraction | float, crf: int = 18) -> Pixels:
    """Frames (S, H, W, 3) as they come back from H.264 4:2:0: what a file in that codec would show.

    crf: the constant rate factor, 0 (best) to 51. The same frames give the same, on any number of cores.
    """
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
    file.seek(0)
    with av.open(file) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(decoded)[:, :height, :width]


def can_encode(codec: str) -> bool:
    """Whether the linked FFmpeg has an encoder of this name."""
    try:
        av.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True
