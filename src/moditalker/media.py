"""Files <-> arrays: pictures, videos and sound, streamed through PyAV (and Pillow for pictures).

Everything that is read becomes RGB uint8 (H, W, 3) with rotation tags applied, and float32 mono at 16 kHz; everything
that is written keeps the source's time stamps, size, colour tags and, where the container allows, its sound packets.
Nothing here holds more than a bounded number of frames, however long the file is, and nothing here opens anything
but ordinary local files. What a user should know but need not act on is collected in ``notes``.

Choices [ours]:

- Alpha is composited on white. Frames of interlaced video stay woven. HDR (PQ, HLG) is tone-mapped to BT.709.
- A picture larger than the largest frame of H.264 level 5.2 (4096 on the long side, 9.4 megapixels) is reduced.
- Output is H.264 4:2:0; H.264 cannot carry 4:2:0 of odd width or height, so those become VP9 (which can, and which
  browsers and phones play), or H.264 4:4:4 in .mov. ``lossless`` is H.264 in RGB, equal to the pixels written.
- Where a written pixel equals the source's, the source's own YUV sample goes to the encoder: untouched pixels don't
  pass through RGB, so neither rounding nor gamut clipping shifts their colour.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol, cast

import av
import av.error
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import Interpolation
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from moditalker.errors import UserError

Pixels = NDArray[np.uint8]
PathLike = str | os.PathLike[str]

SAMPLE_RATE = 16_000  # Hz, of all sound that is read
PICTURE_FPS = Fraction(25)  # frame rate of a video made from a picture
SLACK = Fraction(1, 10)  # s: sound and picture that end this close to each other end together
MIN_SECONDS = Fraction(1, 25)  # s of sound: one frame at 25 fps
MIN_SIDE = 16  # pixels
MAX_SIDE = 8192  # pixels, of a video frame
MAX_PICTURE = 200_000_000  # pixels, of a picture before it is reduced
LEVEL_SIDE, LEVEL_PIXELS = 4096, 36864 * 256  # the largest frame of H.264 level 5.2
CHUNK_BYTES = 32 << 20  # decoded frames that backward playing may hold
MAX_JUMP = 10  # s: a jump of sound or picture time stamps beyond this is an error of the file
EXTEND = ("pingpong", "loop", "hold", "none")  # what a source does when the speech is longer
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")

_PICTURES = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF")
_PQ, _HLG = 16, 18  # transfer characteristics (ITU-T H.273)
_MATRICES = (1, 2, 4, 5, 6, 7, 9)  # those that the scaler knows; 2 = not said, which it reads as BT.601
_EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


@dataclass(frozen=True)
class Color:
    """Colour tags in the numbers of ITU-T H.273; 2 means "not said". ``range``: 1 limited, 2 full."""

    matrix: int = 1
    range: int = 1
    primaries: int = 1
    transfer: int = 1


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds. Sizes are in pixels after rotation; times in seconds; unknown is None."""

    path: Path
    kind: str  # "picture", "video" or "audio"
    width: int = 0
    height: int = 0
    fps: Fraction = PICTURE_FPS  # nominal; time stamps decide
    frames: int | None = None  # as the container declares, so possibly wrong
    seconds: Fraction | None = None  # as the container declares
    time_base: Fraction = 1 / PICTURE_FPS
    pixel_format: str = "rgb24"
    color: Color = Color()
    pixel_aspect: Fraction = Fraction(1)
    has_audio: bool = False
    audio_codec: str | None = None
    sample_rate: int | None = None
    channels: int | None = None

    @property
    def hdr(self) -> bool:
        return self.color.transfer in (_PQ, _HLG)


@dataclass(frozen=True)
class Frame:
    """One frame: ``image`` (H, W, 3) uint8 RGB, shown from ``time`` for ``duration`` seconds (both exact).

    ``index`` counts the source's frames; it comes again when the source is played back and forth.
    """

    index: int
    time: Fraction
    duration: Fraction
    image: Pixels
    yuv: tuple[Pixels, Pixels, Pixels] | None = field(default=None, repr=False)  # 8-bit 4:2:0, same content


@dataclass(frozen=True)
class Clip:
    """A short clip in memory: frames (S, H, W, 3) uint8 RGB, audio (N,) float32 mono in [-1, 1]."""

    frames: Pixels
    fps: Fraction
    audio: NDArray[np.float32]
    sample_rate: int = SAMPLE_RATE


class Source(Protocol):
    """A picture or a video: iterates its frames forwards, and backwards through ``reversed``."""

    info: MediaInfo
    notes: list[str]

    def __iter__(self) -> Iterator[Frame]: ...

    def __reversed__(self) -> Iterator[Frame]: ...


# ----------------------------------------------------------------------------------------------- opening


def _local(path: PathLike) -> Path:
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file; check the name and the folder.")
    if not path.is_file():
        raise UserError(f"{path}: this is not a file; give the path of one picture, video or sound file.")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes); a picture, video or sound file is needed.")
    return path


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a local file for demuxing; whatever goes wrong inside becomes a UserError."""
    try:
        # The prefix and the whitelist: a playlist, or a name that looks like an address, must not reach the network.
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
            yield container
    except PermissionError as error:
        raise UserError(f"{path}: reading is not permitted; change the file's permissions.") from error
    except (av.error.FFmpegError, ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: cannot be read as picture, video or sound ({reason}); the file is of another kind, damaged or "
            "cut off: export or convert it again, for example to .mp4, .png or .wav."
        ) from error


def _video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None:
            stream.codec_context.thread_type = "AUTO"
            stream.codec_context.thread_count = min(4, os.cpu_count() or 1)
            return stream
    return None


def _audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


def _decoded(container: av.container.InputContainer, stream: Any, damage: list[str]) -> Iterator[Any]:
    """Frames of a stream; packets that cannot be decoded are skipped and noted in ``damage``."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            frames = [] if packet is None else packet.decode()
        except av.error.EOFError:
            continue  # a decoder that was flushed says so once
        except (av.error.FFmpegError, ValueError) as error:
            damage.append(str(getattr(error, "strerror", error)))
            if len(damage) > 10_000:
                return
            continue
        if packet is None:
            return
        yield from frames


def _picture_header(path: Path) -> Image.Image | None:
    """Open a still picture without decoding it; None if the file is something else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about size: our own limit follows
            picture = Image.open(path, formats=_PICTURES)
            return None if picture.format == "GIF" and getattr(picture, "is_animated", False) else picture
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path}: the picture has more than {MAX_PICTURE // 10**6} megapixels, which is the limit; reduce it."
        ) from error
    except Exception:  # Pillow's plugins raise many kinds on files that are not theirs
        return None


def probe(path: PathLike) -> MediaInfo:
    """Find out what a file holds, by decoding its first frame.

    Raises UserError if the file is missing, empty, unreadable, or a video of impossible size.
    """
    path = _local(path)
    picture = _picture_header(path)
    if picture is not None:
        with picture:
            width, height = picture.size
            if picture.getexif().get(0x0112, 1) >= 5:  # EXIF orientations 5-8 exchange the sides
                width, height = height, width
            return MediaInfo(path, "picture", width, height, pixel_format=picture.mode)
    with _opened(path) as container:
        video, audio = _video_stream(container), _audio_stream(container)
        seconds = None if container.duration is None else Fraction(container.duration, av.time_base)
        info = MediaInfo(path, "audio", seconds=seconds)
        if audio is not None:
            info = replace(
                info,
                has_audio=True,
                audio_codec=audio.codec_context.codec.canonical_name,
                sample_rate=audio.codec_context.sample_rate,
                channels=audio.codec_context.channels,
            )
        if video is None and audio is None:
            raise UserError(
                f"{path}: neither a picture nor sound is in it; give a picture, a video or a sound file."
            )
        return info if video is None else _probe_video(info, container, video)


def _probe_video(info: MediaInfo, container: av.container.InputContainer, video: av.VideoStream) -> MediaInfo:
    context = video.codec_context
    for side in (context.width, context.height):
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise UserError(
                f"{info.path}: a video of {context.width}x{context.height} pixels; each side must be {MIN_SIDE} to "
                f"{MAX_SIDE}: scale it first."
            )
    first = next(_decoded(container, video, []), None)
    if first is None:
        raise UserError(
            f"{info.path}: no frame of the video can be decoded; the file is damaged: export it again."
        )
    width, height = context.width, context.height
    aspect = Fraction(video.sample_aspect_ratio or 1) or Fraction(1)
    if _orientation(first)[0]:
        width, height, aspect = height, width, 1 / aspect
    rates = (video.average_rate, video.guessed_rate, PICTURE_FPS)
    time_base = video.time_base or Fraction(1, 90_000)
    return replace(
        info,
        kind="video",
        width=width,
        height=height,
        fps=next(rate for rate in rates if rate and 1 <= rate <= 480),
        frames=video.frames or None,
        seconds=video.duration * time_base if video.duration else info.seconds,
        time_base=time_base,
        pixel_format=first.format.name,
        color=Color(
            first.colorspace if first.colorspace in _MATRICES else 1,
            2 if first.color_range == 2 or first.format.name.startswith("yuvj") else 1,
            first.color_primaries,
            first.color_trc,
        ),
        pixel_aspect=aspect,
    )


# ------------------------------------------------------------------------------------------------ pixels


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """(transpose, flip horizontally, flip vertically) that the frame's display matrix asks for."""
    for data in frame.side_data:
        if data.type == SideData.DISPLAYMATRIX:
            a, b, _, c, d = np.frombuffer(cast(Any, data), np.int32)[
                :5
            ].tolist()  # x' = a x + c y, y' = b x + d y
            if a * a + d * d >= b * b + c * c:
                return False, a < 0, d < 0
            return True, c < 0, b < 0
    return False, False, False


def _oriented(image: Pixels, orientation: tuple[bool, bool, bool]) -> Pixels:
    transpose, flip_x, flip_y = orientation
    if transpose:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _planes(frame: av.VideoFrame) -> tuple[Pixels, Pixels, Pixels]:
    """Views of a yuv420p frame's planes, without the padding of their lines."""
    rows = [np.frombuffer(cast(Any, plane), np.uint8).reshape(-1, plane.line_size) for plane in frame.planes]
    y, u, v = (row[: plane.height, : plane.width] for row, plane in zip(rows, frame.planes, strict=True))
    return y, u, v


def _to_yuv(image: Pixels, color: Color) -> av.VideoFrame:
    matrix = color.matrix if color.matrix in _MATRICES else 1
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(
        format="yuv420p", interpolation=_EXACT, dst_colorspace=matrix, dst_color_range=color.range
    )


def _tone_curve(transfer: int) -> NDArray[np.float32]:
    """Light of a 16-bit code value of PQ or HLG, relative to diffuse white (203 cd/m2, ITU-R BT.2408)."""
    code = np.arange(65536) / 65535
    if transfer == _PQ:
        root = code ** (32 / 2523)
        light = 10_000 * (np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)) ** (
            16384 / 2610
        )
    else:
        scene = np.where(
            code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
        )
        light = 1000 * scene**1.2
    return (light / 203).astype(np.float32)


_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def _tone_mapped(image: NDArray[np.uint16], curve: NDArray[np.float32]) -> Pixels:
    """HDR code values (H, W, 3) -> BT.709: linear below 3/4 of diffuse white, highlights rolled off."""
    light = np.maximum(curve[image] @ _BT2020_TO_BT709.T, 0)
    knee = np.float32(0.75)
    light = np.where(light < knee, light, 1 - (1 - knee) * np.exp((knee - light) / (1 - knee)))
    return (255 * light ** np.float32(1 / 2.2) + 0.5).astype(np.uint8)


# ----------------------------------------------------------------------------------------------- reading


def read_picture(path: PathLike) -> tuple[Pixels, list[str]]:
    """Read a picture -> (H, W, 3) uint8 RGB, and notes.

    EXIF orientation and colour profile are applied, alpha is composited on white, 16 bits become 8, and a picture
    above the size of H.264 level 5.2 is reduced. Raises UserError.
    """
    path = _local(path)
    header = _picture_header(path)
    if header is None:
        raise UserError(f"{path}: not a picture that can be read; give a PNG, JPEG, WebP, BMP or TIFF file.")
    notes = []
    with header as picture:
        width, height = picture.size
        if min(picture.size) < MIN_SIDE or width * height > MAX_PICTURE:
            raise UserError(
                f"{path}: a picture of {width}x{height} pixels; each side must be at least {MIN_SIDE}, and the whole "
                f"at most {MAX_PICTURE // 10**6} megapixels: choose or make another."
            )
        try:
            scale = min(1.0, LEVEL_SIDE / max(picture.size), math.sqrt(LEVEL_PIXELS / (width * height)))
            size = (int(width * scale) // 2 * 2, int(height * scale) // 2 * 2)
            if scale < 1:
                picture.draft(None, size)  # lets a JPEG decode at 1/2, 1/4 or 1/8 at once
            image = _eight_bits(picture)
            if scale < 1:
                image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
                notes.append(
                    f"{path.name}: reduced from {width}x{height} to {size[0]}x{size[1]}, the most a video holds."
                )
            if "A" in image.mode:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
                notes.append(f"{path.name}: transparent parts are shown on white.")
            image = ImageOps.exif_transpose(_to_srgb(image, picture.info.get("icc_profile")))
            return np.asarray(image.convert("RGB")), notes
        except Exception as error:  # damaged files raise many kinds
            raise UserError(
                f"{path}: the picture cannot be decoded ({error}); the file is damaged or cut off: save it again."
            ) from error


def _eight_bits(picture: Image.Image) -> Image.Image:
    picture.load()
    if picture.mode.startswith(("I", "F")):  # 16-bit grey, 32-bit integers or floats
        values = np.asarray(picture).astype(np.float32)
        peak = 1.0 if picture.mode == "F" and values.max(initial=0) <= 1 else 65535.0
        grey = Image.fromarray((np.nan_to_num(values / peak).clip(0, 1) * 255 + 0.5).astype(np.uint8))
        grey.info, grey._exif = picture.info, picture.getexif()  # type: ignore[attr-defined]
        return grey
    if picture.mode == "P" or "transparency" in picture.info:
        return picture.convert("RGBA")
    return picture


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply an embedded colour profile (phones write Display P3); one that doesn't fit is ignored."""
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return converted or image


class Picture:
    """A still picture as a Source of one frame."""

    def __init__(self, path: PathLike) -> None:
        image, self.notes = read_picture(path)
        self.info = MediaInfo(Path(path), "picture", image.shape[1], image.shape[0], frames=1)
        self._frame = Frame(0, Fraction(0), 1 / self.info.fps, image)

    def __iter__(self) -> Iterator[Frame]:
        yield self._frame

    def __reversed__(self) -> Iterator[Frame]:
        yield self._frame


class VideoReader:
    """Frames of a video with exact times (the first is 0), as often as wanted, forwards and backwards.

    Backwards decodes from key frames in chunks of CHUNK_BYTES, so memory does not grow with length.
    ``planes``: also give each frame's own YUV samples, which VideoWriter keeps where the picture is unchanged.
    Raises UserError on construction if there is no video; damage inside the video becomes a note.
    """

    def __init__(self, path: PathLike, planes: bool = True) -> None:
        self.info = probe(path)
        self.notes: list[str] = []
        if self.info.kind != "video":
            raise UserError(f"{path}: there is no video in it; give a video, or a picture, of a face.")
        self._planes = planes and not self.info.hdr and (self.info.width * self.info.height) % 2 == 0
        self._ticks = array("q")  # time of each frame in units of the time base, known after one forward pass
        self._stamps = array("q")  # the file's own stamps
        self._keys: list[int] = []  # indices of key frames
        self._last = Fraction(0)  # duration of the last frame
        self._complete = False
        if self.info.hdr:
            self._curve = _tone_curve(self.info.color.transfer)
            self.info = replace(self.info, color=Color())
            self.notes.append(f"{self.info.path.name}: HDR, tone-mapped to BT.709 (8 bits).")
            self._hdr = True
        else:
            self._hdr = False

    def __iter__(self) -> Iterator[Frame]:
        ticks, stamps, keys = array("q"), array("q"), []
        step = max(1, round(1 / self.info.fps / self.info.time_base))
        damage: list[str] = []
        shift: int | None = None
        held: tuple[av.VideoFrame, int] | None = None  # a frame's duration is known when the next one comes
        with _opened(self.info.path) as container:
            stream = _video_stream(container)
            assert stream is not None
            for native in _decoded(container, stream, damage):
                last = ticks[-1] if ticks else -step
                stamp = native.pts if native.pts is not None else last + step - (shift or 0)
                if shift is None:
                    shift = -stamp
                tick = stamp + shift
                if tick <= last or (tick - last) * self.info.time_base > 60 * MAX_JUMP:
                    if (last - tick) * self.info.time_base < 1 and tick <= last:
                        tick = last + 1  # two frames with one stamp
                    else:  # the clock was set anew
                        shift += last + step - tick
                        tick = last + step
                if native.key_frame:
                    keys.append(len(ticks))
                ticks.append(tick)
                stamps.append(stamp)
                if held is not None:
                    yield self._frame(held[0], len(ticks) - 2, held[1], tick - held[1])
                held = (native, tick)
            if held is None:
                raise UserError(f"{self.info.path}: no frame of the video can be decoded; export it again.")
            last_step = held[0].duration or step
            yield self._frame(held[0], len(ticks) - 1, held[1], last_step)
        if not self._complete:
            self._ticks, self._stamps, self._keys, self._complete = ticks, stamps, keys, True
            self._last = last_step * self.info.time_base
            self._report(damage)

    def _report(self, damage: list[str]) -> None:
        name, end = self.info.path.name, self._ticks[-1] * self.info.time_base + self._last
        if damage:
            self.notes.append(
                f"{name}: {len(damage)} damaged piece(s) of the video were skipped ({damage[0]})."
            )
        declared, found = self.info.frames or 0, len(self._ticks)
        if declared > found:
            self.notes.append(f"{name}: {found} of the {declared} frames it declares could be decoded.")
        elif self.info.frames is None and self.info.seconds and self.info.seconds - end > 1:
            self.notes.append(
                f"{name}: ends after {float(end):.2f} s of the {float(self.info.seconds):.2f} s it declares."
            )

    def _frame(self, native: av.VideoFrame, index: int, tick: int, duration: int) -> Frame:
        """Convert a decoded frame. SDR goes through the scaler's default path, as in every other reader, so that
        frames compare equal with those that other software decodes."""
        orientation = _orientation(native)
        width, height = (self.info.width, self.info.height)[:: -1 if orientation[0] else 1]
        same_size = (native.width, native.height) == (width, height)
        if not same_size and not any("changes" in note for note in self.notes):
            self.notes.append(
                f"{self.info.path.name}: the frame size changes inside the video; the first size is kept."
            )
        matrix = native.colorspace if native.colorspace in _MATRICES else 1
        if self._hdr:
            deep = native.reformat(width, height, "rgb48le", src_colorspace=matrix, interpolation=_EXACT)
            image = _tone_mapped(cast(NDArray[np.uint16], deep.to_ndarray()), self._curve)
        else:
            image = cast(Pixels, native.reformat(width, height, "rgb24", src_colorspace=matrix).to_ndarray())
        yuv = None
        if self._planes and same_size and native.format.name.startswith(("yuv", "nv")):
            span = self.info.color.range
            eight = native.reformat(
                format="yuv420p", interpolation=_EXACT, src_color_range=span, dst_color_range=span
            )
            y, u, v = (_oriented(plane, orientation) for plane in _planes(eight))
            yuv = (y, u, v)
        base = self.info.time_base
        return Frame(index, tick * base, duration * base, _oriented(image, orientation), yuv)

    def __reversed__(self) -> Iterator[Frame]:
        if not self._complete:
            deque(self, maxlen=0)
        total = len(self._ticks)
        chunk = max(8, min(128, CHUNK_BYTES // (self.info.width * self.info.height * 3 // 2)))
        for stop in range(total, 0, -chunk):
            start = max(0, stop - chunk)
            for index, native in reversed(list(enumerate(self._between(start, stop), start))):
                tick = self._ticks[index]
                if index + 1 < total:
                    duration = self._ticks[index + 1] - tick
                else:
                    duration = round(self._last / self.info.time_base)
                yield self._frame(native, index, tick, duration)

    def _between(self, start: int, stop: int) -> list[av.VideoFrame]:
        """Decoded frames start..stop-1: from the nearest key frame where seeking works, else from the beginning."""
        key = max((key for key in self._keys if key <= start), default=0)
        monotonic = self._stamps[-1] - self._stamps[0] == self._ticks[-1]  # no stamp was missing or mended
        attempts: list[int | None] = [None]
        if key > 0 and monotonic:
            margin = int(
                2 / self.info.time_base
            )  # some containers land behind the key frame that was asked for
            attempts = [self._stamps[key], self._stamps[key] - margin, None]
        wanted = self._stamps[start:stop]
        for seek in attempts:
            with _opened(self.info.path) as container:
                stream = _video_stream(container)
                assert stream is not None
                natives = _decoded(container, stream, [])
                if seek is None:
                    return list(islice(natives, start, stop))
                container.seek(seek, stream=stream)
                found: list[av.VideoFrame] = []
                clean = False  # from a key frame on, a frame decodes as in the forward pass
                for native in natives:
                    clean = clean or (native.key_frame and native.pts is not None and native.pts <= wanted[0])
                    if native.pts is not None and native.pts > wanted[-1]:
                        break
                    if clean and native.pts is not None and native.pts >= wanted[0]:
                        found.append(native)
                        if len(found) == len(wanted):
                            break
                if array("q", [native.pts or 0 for native in found]) == wanted:
                    return found
        return []


def open_source(path: PathLike) -> Source:
    """Open a face source: a picture or a video. Raises UserError, also for a file with sound only."""
    return Picture(path) if probe(path).kind == "picture" else VideoReader(path)


def plan_frames(source: Source, seconds: Fraction, extend: str = "pingpong") -> Iterator[Frame]:
    """The output's frames for ``seconds`` of speech, with the output's times.

    A picture gives ceil(seconds x fps) frames. A video that is longer than the speech ends with it; one that is
    shorter continues by ``extend``: "pingpong" (back and forth), "loop", "hold" (the last frame) or "none" (the video
    ends first). A video and a speech whose ends are within SLACK of each other (the usual padding of audio codecs)
    give exactly the video's frames. Each frame keeps its own duration in either direction.
    """
    if extend not in EXTEND:
        raise UserError(f"extend is {extend!r}; it must be one of {', '.join(EXTEND)}.")
    still = source.info.kind == "picture"
    slack = Fraction(0) if still else SLACK
    tail: list[Frame] = []  # frames behind the end of the speech, wanted only if the video ends there too
    end = Fraction(0)
    for frame in source:
        if frame.time >= seconds + slack:
            return
        if frame.time >= seconds:
            tail.append(frame)
        else:
            yield frame
        end = frame.time + frame.duration
    if end <= seconds + slack:
        yield from tail
    if tail or seconds - end <= slack:
        return
    for frame in _continued(source, "hold" if still else extend, end):
        if frame.time >= seconds:
            return
        yield frame


def _continued(source: Source, extend: str, time: Fraction) -> Iterator[Frame]:
    """What follows the last frame, for ever (except for "none")."""
    if extend == "none":
        return
    if extend == "hold" or (first := next(islice(source, 1, None), None)) is None:
        last = next(iter(reversed(source)))
        for turn in count():
            yield replace(last, time=time + turn * last.duration)
    del first
    for turn in count():
        if extend == "loop":
            frames: Iterator[Frame] = iter(source)
        else:  # the frame at the turn was shown already
            frames = islice(reversed(source) if turn % 2 == 0 else iter(source), 1, None)
        for frame in frames:
            yield replace(frame, time=time)
            time += frame.duration


# ------------------------------------------------------------------------------------------------- sound


class AudioReader:
    """The sound of a file, streamed as mono float32 in [-1, 1] at 16 kHz.

    Time 0 is the first frame of the file's video if it has one, else the first sample. Gaps in the time stamps become
    silence, overlaps are cut, so that sample n is heard at n / 16000 s. Surround channels are mixed with the centre at
    full weight, sides at -3 dB, back at -6 dB and no low-frequency channel, normalised so that nothing clips.
    Raises UserError if there is no sound.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = _local(path)
        self.notes: list[str] = []
        with _opened(self.path) as container:
            if _audio_stream(container) is None:
                raise UserError(f"{path}: there is no sound track in it; give a file with speech.")

    @cached_property
    def zero(self) -> Fraction:
        """The file's own time stamp of our time 0, seconds."""
        with _opened(self.path) as container:
            audio, video = _audio_stream(container), _video_stream(container)
            first = next((frame for frame in _decoded(container, audio, []) if frame.samples), None)
            if first is None or first.pts is None:
                return Fraction(0)
            start = first.pts * first.time_base
            if video is not None and video.start_time is not None and video.time_base is not None:
                shown = video.start_time * video.time_base
                if abs(start - shown) <= MAX_JUMP:
                    return shown
            return cast(Fraction, start)

    @cached_property
    def seconds(self) -> Fraction:
        """Exact length, found by decoding once. Raises UserError below MIN_SECONDS."""
        end = Fraction(0)
        for frame, start in self._timed():
            end = start + Fraction(frame.samples, frame.sample_rate)
        if end < MIN_SECONDS:
            raise UserError(
                f"{self.path}: {float(end):.3f} s of sound; at least {float(MIN_SECONDS):.2f} s (one frame at 25 fps) "
                "is needed: give a longer recording."
            )
        return end

    def _timed(self) -> Iterator[tuple[av.AudioFrame, Fraction]]:
        """Decoded frames and the time each starts at, counted in samples while the stamps agree with the count."""
        expected, zero, damage = Fraction(0), self.zero, list[str]()
        first = True
        with _opened(self.path) as container:
            for frame in _decoded(container, _audio_stream(container), damage):
                if not frame.samples or not frame.sample_rate:
                    continue
                start = expected if frame.pts is None else frame.pts * frame.time_base - zero
                gap = start - expected
                if abs(gap) > MAX_JUMP:
                    zero += gap  # the clock was set anew
                    start = expected
                elif abs(gap) < Fraction(1, 20) and not first:  # stamps are rounded, sample counts are not
                    start = expected
                first = False
                yield frame, start
                expected = max(Fraction(0), start + Fraction(frame.samples, frame.sample_rate))
        if damage and not self.notes:
            self.notes.append(f"{self.path.name}: {len(damage)} damaged piece(s) of the sound were skipped.")

    def blocks(self, rate: int, layout: str | None = None) -> Iterator[tuple[NDArray[np.float32], list[str]]]:
        """Resampled sound: (channels, n) float32 and the channels' names; ``layout`` None keeps the channels."""
        resampler: av.AudioResampler | None = None
        form: tuple[str, str, int] | None = None
        given, skip, expected = 0, 0, Fraction(0)  # samples given, still to be cut

        def taken(frames: list[av.AudioFrame]) -> Iterator[tuple[NDArray[np.float32], list[str]]]:
            nonlocal given, skip
            for frame in frames:
                samples = cast(NDArray[np.float32], frame.to_ndarray())[:, skip:]
                skip = max(0, skip - frame.samples)
                given += samples.shape[1]
                if samples.size:
                    names = [channel.name for channel in frame.layout.channels]
                    yield np.nan_to_num(samples).clip(-1, 1), names

        for frame, start in self._timed():
            now = (frame.format.name, frame.layout.name, frame.sample_rate)
            if start != expected or now != form:
                if resampler is not None:
                    yield from taken(resampler.resample(None))
                resampler = av.AudioResampler("fltp", layout or frame.layout, rate)
                form = now
                lag = round(start * rate) - given
                skip = max(0, -lag)
                names = [
                    channel.name for channel in (av.AudioLayout(layout) if layout else frame.layout).channels
                ]
                while lag > 0:
                    silence = np.zeros((len(names), min(lag, rate)), np.float32)
                    lag -= silence.shape[1]
                    given += silence.shape[1]
                    yield silence, names
            assert resampler is not None
            expected = start + Fraction(frame.samples, frame.sample_rate)
            frame.pts = None
            yield from taken(resampler.resample(frame))
        if resampler is not None:
            yield from taken(resampler.resample(None))

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for samples, names in self.blocks(SAMPLE_RATE):
            yield _mix(names) @ samples

    def read(self, seconds: float | None = None) -> NDArray[np.float32]:
        """The whole sound, or its first ``seconds``, as one array (N,)."""
        limit = None if seconds is None else round(seconds * SAMPLE_RATE)
        chunks, total = [np.zeros(0, np.float32)], 0
        for chunk in self:
            chunks.append(chunk)
            total += len(chunk)
            if limit is not None and total >= limit:
                break
        return np.concatenate(chunks)[:limit]


def _mix(names: list[str]) -> NDArray[np.float32]:
    """Weights (channels,) of the mono mix; they add up to 1."""

    def weight(name: str) -> float:
        return (
            0.0
            if name.startswith("LFE")
            else 1.0
            if name == "FC"
            else 0.5
            if name[:1] in "BST"
            else math.sqrt(0.5)
        )

    weights = np.array([weight(name) for name in names], np.float32)
    return weights / weights.sum() if weights.sum() > 0 else np.full(len(names), 1 / len(names), np.float32)


# ----------------------------------------------------------------------------------------------- writing


class VideoWriter:
    """Writes frames and the source's sound; a context manager, and the file appears only when all went well.

    ``info`` gives size, time base, colour tags and pixel aspect: that of the source, or ``plain_info``. ``audio`` is a file
    whose sound packets are copied untouched if the container takes them, else encoded as AAC, which ``notes`` says
    (uncompressed sound in .mp4 is always encoded: no browser or phone plays it there). ``recode_audio`` forces AAC. Sound
    beyond the end of the video (plus SLACK) is cut. Matroska (.mkv) rounds all times to milliseconds.
    Raises UserError for a folder, suffix or disk that cannot take the file.
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
    ) -> None:
        self.path, self.info, self.notes = Path(path), info, list[str]()
        if self.path.suffix.lower() not in SUFFIXES:
            raise UserError(
                f"{path}: a video is written as {', '.join(SUFFIXES)}; choose one of these endings."
            )
        if not self.path.absolute().parent.is_dir():
            raise UserError(f"{path}: the folder does not exist; create it or choose another.")
        self._lossless, self._end, self._last_pts = lossless, Fraction(0), -1
        self._sound: Iterator[tuple[Fraction, av.Packet[Any]]] = iter(())
        self._waiting: tuple[Fraction, av.Packet[Any]] | None = None
        self._part = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part{self.path.suffix}")
        reader = None if audio is None else AudioReader(audio)
        with self._guarded():
            format = {".mkv": "matroska", ".mov": "mov"}.get(self.path.suffix.lower(), "mp4")
            options = (
                {"avoid_negative_ts": "disabled"} if format == "matroska" else {"movflags": "+faststart"}
            )
            self._container = av.open(f"file:{self._part}", "w", format=format, container_options=options)
            self._container.metadata.update(metadata or {})
            self._video = self._add_video(format)
            if reader is not None:
                self._add_sound(reader, format, recode_audio)

    def _add_video(self, format: str) -> av.VideoStream:
        info, odd = self.info, self.info.width % 2 or self.info.height % 2
        if self._lossless:
            codec, self._pixels, options = "libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast"}
        elif odd and format != "mov":
            codec, self._pixels = "libvpx-vp9", "yuv420p"
            options = {"crf": "10", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"}
            self.notes.append(
                f"{info.width}x{info.height} has an odd side, which H.264 cannot hold: encoded as VP9."
            )
        else:
            codec, self._pixels, options = "libx264", "yuv420p", {"crf": "16", "preset": "fast"}
            if odd:
                self._pixels = "yuv444p"
                self.notes.append(
                    f"{info.width}x{info.height} has an odd side: encoded as H.264 4:4:4; use .mp4 for VP9."
                )
        stream = self._container.add_stream(
            codec, rate=info.fps, options=options, width=info.width, height=info.height
        )
        stream.pix_fmt = self._pixels
        stream.time_base = info.time_base
        context = stream.codec_context
        context.time_base = info.time_base
        context.sample_aspect_ratio = info.pixel_aspect
        context.color_primaries, context.color_trc = info.color.primaries, info.color.transfer
        if not self._lossless:
            context.colorspace, context.color_range = info.color.matrix, info.color.range
        return stream

    def _add_sound(self, reader: AudioReader, format: str, recode: bool) -> None:
        with _opened(reader.path) as source:
            audio = _audio_stream(source)
            assert audio is not None
            codec = audio.codec_context.codec.canonical_name
            raw = codec.startswith("pcm") and format == "mp4"
            if not recode and not raw and _takes(format, audio):
                stream = self._container.add_stream_from_template(audio)
                self._sound = self._copied(reader, stream)
                return
            rate, channels = audio.codec_context.sample_rate, audio.codec_context.channels
        rates = av.Codec("aac", "w").audio_rates or []
        rate = rate if rate in rates else 48_000
        encoder = self._container.add_stream("aac", rate=rate)
        encoder.layout = layout = "mono" if channels == 1 else "stereo"  # type: ignore[assignment]
        encoder.bit_rate = 96_000 * (1 if channels == 1 else 2)
        self._sound = self._encoded(reader, encoder, rate, layout)
        way = "" if recode else "; .mov or .mkv would keep it untouched" if codec.startswith("pcm") else ""
        self.notes.append(f"{reader.path.name}: the sound was encoded from {codec} to AAC{way}.")

    def _copied(self, reader: AudioReader, stream: Any) -> Iterator[tuple[Fraction, av.Packet[Any]]]:
        with _opened(reader.path) as source:
            last = None
            for packet in source.demux(_audio_stream(source)):
                if packet.dts is None and packet.pts is None:
                    continue
                base = packet.time_base
                shift = round(reader.zero / base)
                dts = (packet.pts if packet.dts is None else packet.dts) - shift
                dts = dts if last is None else max(dts, last + 1)
                packet.pts = max(dts, dts if packet.pts is None else packet.pts - shift)
                packet.dts = last = dts
                packet.stream = stream
                yield packet.pts * base, packet

    def _encoded(
        self, reader: AudioReader, stream: Any, rate: int, layout: str
    ) -> Iterator[tuple[Fraction, av.Packet[Any]]]:
        given = 0
        for samples, _ in reader.blocks(rate, layout):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, given, Fraction(1, rate)
            given += samples.shape[1]
            for packet in stream.encode(frame):
                yield packet.pts * packet.time_base, packet
        for packet in stream.encode(None):
            yield packet.pts * packet.time_base, packet

    def write(self, frame: Frame, image: Pixels | None = None) -> None:
        """Append a frame, shown from ``frame.time``; ``image`` (H, W, 3) uint8 replaces the frame's own."""
        image = frame.image if image is None else image
        if image.shape != (self.info.height, self.info.width, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"a frame of {image.shape} {image.dtype}, not {(self.info.height, self.info.width, 3)} uint8"
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
        color = self.info.color
        if self._pixels == "rgb24":
            return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if self._pixels == "yuv444p":
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            native = rgb.reformat(
                format="yuv444p",
                interpolation=_EXACT,
                dst_colorspace=color.matrix,
                dst_color_range=color.range,
            )
        else:
            native = _to_yuv(image, color)
            if frame.yuv is not None and frame.yuv[0].shape == image.shape[:2]:
                # Both conversions round alike, so their difference is the change alone: zero where nothing changed.
                before = _planes(_to_yuv(frame.image, color))
                for new, old, own in zip(_planes(native), before, frame.yuv, strict=True):
                    new[:] = (own.astype(np.int16) + new - old).clip(0, 255)
        native.colorspace, native.color_range = color.matrix, color.range
        return native

    def _feed(self, until: Fraction) -> None:
        """Mux sound up to a time: in step with the picture, or the muxer would have to hold it all."""
        while True:
            self._waiting = self._waiting or next(self._sound, None)
            if self._waiting is None or self._waiting[0] >= until:
                return
            self._container.mux(self._waiting[1])
            self._waiting = None

    def close(self) -> None:
        """Finish the file and give it its name."""
        with self._guarded():
            self._container.mux(self._video.encode(None))
            self._feed(self._end + SLACK)
            self._container.close()
            os.replace(self._part, self.path)

    def abort(self) -> None:
        """Leave nothing behind."""
        try:
            self._container.close()
        except (av.error.FFmpegError, AttributeError, ValueError):
            pass
        self._part.unlink(missing_ok=True)

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
            if isinstance(error, (av.error.FFmpegError, OSError)):
                reason = getattr(error, "strerror", None) or error
                raise UserError(
                    f"{self.path}: cannot be written ({reason}); check free space and permissions of the folder."
                ) from error
            raise


def _takes(format: str, audio: av.AudioStream) -> bool:
    """Whether a container of this format takes the stream's packets as they are: ask the muxer itself."""
    try:
        with av.open(io.BytesIO(), "w", format=format) as trial:
            trial.add_stream_from_template(audio)
            trial.start_encoding()
        return True
    except (av.error.FFmpegError, ValueError):
        return False


def plain_info(width: int, height: int, fps: Fraction | float = PICTURE_FPS) -> MediaInfo:
    """Info for writing frames that come from no file: BT.709, limited range, constant frame rate."""
    rate = Fraction(fps).limit_denominator(1001)
    return MediaInfo(Path(), "video", width, height, fps=rate, time_base=1 / rate)


def read_clip(path: PathLike, max_seconds: float | None = None) -> Clip:
    """Read a short video into memory, at most ``max_seconds`` of it; no sound track gives an empty ``audio``."""
    reader = VideoReader(path, planes=False)
    frames = []
    for frame in reader:
        if max_seconds is not None and frame.time >= max_seconds:
            break
        frames.append(frame.image)
    audio = AudioReader(path).read(max_seconds) if reader.info.has_audio else np.zeros(0, np.float32)
    return Clip(np.stack(frames), reader.info.fps, audio)
