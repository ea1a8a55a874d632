"""Opens local files safely and finds out what they hold."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias, cast

import av
import av.error
import numpy as np
from av.sidedata.sidedata import Type as SideData
from numpy.typing import NDArray
from PIL import Image, features

from moditalker.config.limits import RATE
from moditalker.errors import UserError
from moditalker.jobs.files import check_name

Pixels: TypeAlias = NDArray[np.uint8]
Samples: TypeAlias = NDArray[np.float32]
PathLike: TypeAlias = str | os.PathLike[str]
Orientation: TypeAlias = tuple[bool, bool, bool]  # transpose, then flip horizontally, flip vertically

PICTURE_FPS = Fraction(RATE)  # of a video made from a picture
MIN_SIDE, MAX_SIDE = 16, 8192  # pixels, of a video frame
MAX_PICTURE = 170_000_000  # pixels, of a picture before it is reduced

OPEN_SECONDS = 20.0  # that FFmpeg may look for what a file holds: it follows empty parts for minutes
MAX_GAP = 600  # s: time stamps that jump further ahead, or back by more than MAX_BACK, are a clock set anew
MAX_BACK = 1  # s

_PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", *(["AVIF"] if features.check("avif") else []))
_MOVING = ("GIF", "WEBP", "AVIF", "PNG")  # of these, those that may move
MOVING_BASE = Fraction(1, 1000)  # s: time base of moving pictures
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_UNSAFE = ("png", "apng")  # PyAV's view of a colour profile in their side data crashes the process
_MATRICES = (1, 2, 4, 5, 6, 7, 9)  # that the scaler knows; 2, "not said", it reads as BT.601


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


def local(path: PathLike) -> Path:
    """The path of a file that is there and not empty. Raises UserError."""
    path = Path(path)
    check_name(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file; check the name and the folder.")
    if not path.is_file():
        raise UserError(f"{path}: this is not a file; give one picture, video or sound file.")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty (0 bytes); a picture, video or sound is needed.")
    return path


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a local file for reading; errors in the block, too, become a UserError."""
    try:
        # Prefix and whitelist: no playlist, and no name that looks like an address, may reach the network.
        options, waits = {"protocol_whitelist": "file"}, (OPEN_SECONDS, None)
        with av.open(f"file:{path}", options=options, timeout=waits) as container:
            yield container
    except av.error.ExitError as error:
        raise UserError(
            f"{path}: what it holds was not found out in {OPEN_SECONDS:g} s; it is damaged, or its disk is "
            "too slow: export it again, or copy it to another disk."
        ) from error
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as picture, video or sound ({reason(error)}); it is something else, "
            "damaged or cut off: export it again, for example as .mp4, .png or .wav."
        ) from error


def reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)


def streams(container: av.container.InputContainer, track: int | None = None) -> tuple[Any, Any]:
    """The video stream (not a cover picture) and the audio stream, or None; typed Any to spare casts.

    track: number of the sound track, from 1; None: the one that players take, which is the first that the
    file marks as default, else the first.
    """
    cover = av.stream.Disposition.attached_pic
    video = next((s for s in container.streams.video if s.codec_context and not s.disposition & cover), None)
    if video is not None:
        video.codec_context.thread_type = "AUTO"
        video.codec_context.thread_count = min(4, os.cpu_count() or 1)
    sounds: list[Any] = [s for s in container.streams.audio if s.codec_context]
    if track is not None:
        wanted = container.streams.audio[track - 1 : track]
        return video, next((s for s in sounds if s in wanted), None)
    default = av.stream.Disposition.default
    return video, next((s for s in sounds if s.disposition & default), sounds[0] if sounds else None)


def decoded(container: av.container.InputContainer, stream: Any, damage: list[str]) -> Iterator[Any]:
    """A stream's frames; pieces that cannot be decoded are skipped and noted in ``damage``."""
    packets, decoder = container.demux(stream), _decoder_of_alpha(stream)
    while len(damage) < 10_000:
        try:
            if (packet := next(packets, None)) is None:
                return
            whole = packet if packet.size else None  # None: what is left at the end
            frames = packet.decode() if decoder is None else decoder.decode(whole)
        except av.error.EOFError:
            continue
        except (av.error.FFmpegError, ValueError) as error:
            damage.append(reason(error))
            continue
        yield from frames


def _decoder_of_alpha(stream: Any) -> Any:
    """What decodes the alpha of VP8 and VP9 too, which FFmpeg's own decoders leave out; None: not needed."""
    name = _ALPHA_DECODERS.get(stream.codec_context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return None
    try:
        decoder: Any = av.CodecContext.create(name, "r")
    except ValueError:  # an FFmpeg without libvpx
        return None
    decoder.extradata = stream.codec_context.extradata
    decoder.thread_count = stream.codec_context.thread_count
    return decoder


def still(path: Path) -> Image.Image | None:
    """Open a still picture without decoding it; None if the file is something else, or moves."""
    return _picture(path, lambda picture: not _moves(picture))


def moving(path: Path) -> Image.Image | None:
    """Open an animated WebP, AVIF or PNG without decoding it; None if the file is something else.

    FFmpeg shows one frame of these at most; of an animated GIF it shows all.
    """
    return _picture(path, lambda picture: picture.format != "GIF" and _moves(picture))


def _moves(picture: Image.Image) -> bool:
    with suppress(Exception):  # of damaged files, in which a GIF looks for a second frame
        return picture.format in _MOVING and bool(getattr(picture, "is_animated", False))
    return False


def moving_frames(path: Path, damage: list[str]) -> Iterator[Any]:
    """Frames of what `moving` opens, as a decoder would give them: RGBA, stamps in MOVING_BASE.

    What follows a frame that cannot be decoded is left out and noted in ``damage``.
    """
    with moving(path) or Image.new("RGBA", (1, 1)) as picture:
        stamp = 0
        for number in range(int(bool(picture.info.get("default_image"))), getattr(picture, "n_frames", 0)):
            try:
                picture.seek(number)
                image = np.asarray(picture.convert("RGBA"))
            except Exception as error:  # its plugins raise many kinds on damaged files
                damage.append(reason(error))
                return
            native: Any = av.VideoFrame.from_ndarray(image, format="rgba")
            native.pts, native.time_base, native.duration = stamp, MOVING_BASE, _shown(picture)
            stamp += native.duration
            yield native


def _shown(picture: Image.Image) -> int:
    """Duration of a moving picture's frame, in MOVING_BASE: 1/10 s for 10 ms or less, as in browsers."""
    try:
        duration = round(float(picture.info.get("duration", 0)))
    except (TypeError, ValueError, OverflowError):
        duration = 0
    return duration if 10 < duration < MAX_GAP / MOVING_BASE else 100


def _probe_moving(path: Path, picture: Image.Image) -> MediaInfo:
    width, height = picture.size
    _check_size(path, width, height)
    first = next(moving_frames(path, []), None)
    if first is None:
        raise UserError(f"{path}: no frame of the video can be decoded; it is damaged: export it again.")
    rate = 1 / (first.duration * MOVING_BASE)
    frames = getattr(picture, "n_frames", 0) - bool(picture.info.get("default_image"))
    return MediaInfo(
        path,
        "video",
        width,
        height,
        fps=rate if rate >= 1 else PICTURE_FPS,
        frames=frames,
        time_base=MOVING_BASE,
        pixel_format="rgba",
    )


def _picture(path: Path, wanted: Callable[[Image.Image], bool]) -> Image.Image | None:
    """Open a picture without decoding it; None if the file is something else, or not wanted."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warning about size: there is a limit of our own
            picture = Image.open(path, formats=_PICTURES)
        if wanted(picture):
            return picture
        picture.close()
        return None
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path}: the picture has more than {MAX_PICTURE // 10**6} megapixels; reduce it to fewer."
        ) from error
    except Exception:  # its plugins raise many kinds on what they don't know
        return None


def probe(path: PathLike) -> MediaInfo:
    """Find out what a file holds; of a video, one frame is decoded. Raises UserError if it cannot be read."""
    path = local(path)
    if (picture := still(path)) is not None:
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
    if (picture := moving(path)) is not None:
        with picture:
            return _probe_moving(path, picture)
    with opened(path) as container:
        video, audio = streams(container)
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
    _check_size(info.path, width, height)
    first = next(decoded(container, video, []), None)
    if first is None:
        raise UserError(f"{info.path}: no frame of the video can be decoded; it is damaged: export it again.")
    orientation, aspect = (
        orientation_of(first, video.codec_context.name),
        Fraction(video.sample_aspect_ratio or 1),
    )
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
        color=Color(matrix_of(first.colorspace), span, first.color_primaries, first.color_trc),
        pixel_aspect=aspect,
        orientation=orientation,
    )


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        raise UserError(
            f"{path}: a video of {width}x{height} pixels; each side must have {MIN_SIDE} to {MAX_SIDE}: "
            "scale it."
        )


def orientation_of(frame: av.VideoFrame, codec: str) -> Orientation:
    """What the frame's display matrix asks for. (Ask once a file: the side data outlive their frame.)"""
    try:
        if codec in _UNSAFE:
            raise ValueError(codec)
        data = cast(Any, frame.side_data).get(SideData.DISPLAYMATRIX)
    except ValueError:  # side data of a kind that PyAV has no name for, as EXIF in motion JPEG
        turns = round(frame.rotation / 90) % 4  # counterclockwise
        return turns % 2 == 1, turns in (2, 3), turns in (1, 2)
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
    return (False, a < 0, d < 0) if abs(a) + abs(d) >= abs(b) + abs(c) else (True, c < 0, b < 0)


def matrix_of(colorspace: int) -> int:
    return colorspace if colorspace in _MATRICES else 1
