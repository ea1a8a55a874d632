"""Reads a face's frames from pictures and videos, forwards and backwards, for the length of the speech."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeAlias

from moditalker.errors import UserError
from moditalker.media.fields import progressive
from moditalker.media.files import (
    MAX_BACK,
    MAX_GAP,
    Color,
    MediaInfo,
    PathLike,
    Pixels,
    Samples,
    decoded,
    matrix_of,
    moving,
    moving_frames,
    opened,
    probe,
    streams,
)
from moditalker.media.pictures import read_picture
from moditalker.media.pixels import EXACT, HLG, PQ, light_of, on_white, planes_of, tone_mapped, upright

SLACK = Fraction(1, 10)  # s: sound and video whose ends are this close end together
MIN_STEP = Fraction(1, 1000)  # s from frame to frame, on average
OPAQUE = 250  # alpha from which on a pixel that went through a codec is not transparent
CHUNK_BYTES = 32 << 20  # decoded frames that backward playing may hold
EXTEND = ("pingpong", "loop", "hold", "none")  # what the source does when the speech is longer


@dataclass(frozen=True)
class Frame:
    """``image`` (H, W, 3) uint8 RGB, shown from ``time`` for ``duration`` seconds, both exact.

    ``index`` counts the source's frames; it returns when the source is played back and forth. ``yuv``: the
    same content as planes, 8-bit 4:2:0 unless others were asked for, as the file holds it.
    """

    index: int
    time: Fraction
    duration: Fraction
    image: Pixels
    yuv: list[Pixels] | None = field(default=None, repr=False)


class Picture:
    """A still picture as a source of one frame, forwards and backwards."""

    start = Fraction(0)

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
    VideoWriter keeps where nothing was painted; a name: in this pixel format.
    Raises UserError if there is no video; damage within one becomes a note.
    """

    start = Fraction(0)

    def __init__(self, path: PathLike, planes: bool | str = True) -> None:
        self.info = probe(path)
        self.notes: list[str] = []
        if self.info.kind != "video":
            raise UserError(f"{path}: there is no video in it; give a video, or a picture, of a face.")
        self._light: Samples | None = None
        if self.info.color.transfer in (PQ, HLG):
            self._light = light_of(self.info.color.transfer)
            self.info = replace(self.info, color=Color(), pixel_format="yuv420p")  # that its frames have
            self.notes.append(f"{self.info.path.name}: HDR is tone-mapped to 8 bits of BT.709.")
        even = self.info.width % 2 == self.info.height % 2 == 0
        picture = moving(self.info.path)
        self._moving = picture is not None
        if picture is not None:
            picture.close()
        form = "yuv420p" if planes is True else planes or ""
        turned = self.info.orientation[0] and "422" in form  # would be 4:4:0
        self._planes = form if even and self._light is None and not turned else ""
        self._ticks = array("q")  # after a forward pass: each frame's time in units of the time base,
        self._stamps = array("q")  # the file's own stamp of it,
        self._keys: list[int] = []  # and the indices of key frames
        self._fields = False  # whether frames are interlaced, so that each depends on the one before, too
        self._last = 1  # duration of the last frame, in units of the time base

    def __iter__(self) -> Iterator[Frame]:
        base = self.info.time_base
        step = max(1, round(1 / self.info.fps / base))
        ticks, stamps, keys = array("q"), array("q"), []
        shift: int | None = None
        damage: list[str] = []
        held: Any = None  # a frame's duration is known when the next one comes
        with self._decoding(damage) as natives:
            for native in natives:
                last = ticks[-1] if ticks else -step
                stamp = last + step - (shift or 0) if native.pts is None else native.pts
                shift = -stamp if shift is None else shift
                tick = stamp + shift
                if last - MAX_BACK / base < tick <= last:  # two frames with one stamp
                    tick = last + 1
                elif not last < tick < last + MAX_GAP / base:  # the clock was set anew
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
        short = seconds is not None and seconds > end + 2 / self.info.fps  # else an edit list left them out
        if declared and declared > found and short:
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
        if not fits:
            self._note(note)
        matrix, clear = matrix_of(native.colorspace), False
        if self._light is None:
            clear = any(component.is_alpha for component in native.format.components)
            form = "rgba" if clear else "rgb24"
            rgb = native.reformat(width, height, form, src_colorspace=matrix, threads=1)
            image = rgb.to_ndarray()
            if clear and image[..., 3].min() < OPAQUE:
                self._note(f"{info.path.name}: transparent parts are shown on white.")
            image = on_white(image) if clear else image
        else:
            rgb = native.reformat(
                width, height, "rgb48le", src_colorspace=matrix, interpolation=EXACT, threads=1
            )
            image = tone_mapped(self._light[rgb.to_ndarray()])
        yuv = None
        if self._planes and fits and not clear and native.format.name.startswith(("yuv", "nv")):
            tags = {"src_color_range": span, "dst_color_range": span}
            own = native.reformat(format=self._planes, interpolation=EXACT, threads=1, **tags)
            yuv = [upright(plane, info.orientation) for plane in planes_of(own)]
        base = info.time_base
        return Frame(index, tick * base, duration * base, upright(image, info.orientation), yuv)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def times(self) -> list[Fraction]:
        """When each frame is shown, and the end, seconds; found by decoding all."""
        if not self._ticks:
            deque(self, maxlen=0)
        return [tick * self.info.time_base for tick in (*self._ticks, self._ticks[-1] + self._last)]

    def between(self, first: int, last: int) -> Iterator[Frame]:
        """Frames first..last-1, once all were decoded: from the nearest key frame if seeking works."""
        ticks = [*self._ticks, self._ticks[-1] + self._last]
        natives = self._from(first)
        for index, native in zip(range(first, last), natives, strict=False):
            yield self._frame(native, index, ticks[index], ticks[index + 1] - ticks[index])
        natives.close()

    def _from(self, first: int) -> Generator[Any, None, None]:
        """Decoded frames from this one on."""
        for seek in self._seeks(first):
            with opened(self.info.path) as container:
                container.seek(seek, stream=streams(container)[0])
                wanted, clean, found = self._stamps[first], False, False
                for native in self._natives(container, []):
                    stamp = wanted - 1 if native.pts is None else native.pts
                    clean = clean or (native.key_frame and stamp <= wanted - self._fields)
                    if clean and stamp >= wanted:
                        found = found or stamp == wanted
                        if not found:
                            break
                        yield native
                if found:
                    return
        with self._decoding([]) as natives:
            yield from islice(natives, first, None)

    def __reversed__(self) -> Iterator[Frame]:
        return self.back(0, len(self.times()) - 1)

    def back(self, first: int, last: int) -> Iterator[Frame]:
        """Frames first..last-1, once all were decoded, the last one first."""
        chunk = max(8, min(128, CHUNK_BYTES // (self.info.width * self.info.height * 3 // 2)))
        follower = [*self._ticks, self._ticks[-1] + self._last][last]
        for stop in range(last, first, -chunk):
            natives = self._between(max(first, stop - chunk), stop)
            for index in range(stop - 1, stop - 1 - len(natives), -1):
                tick = self._ticks[index]
                yield self._frame(natives.pop(), index, tick, follower - tick)
                follower = tick

    def _between(self, start: int, stop: int) -> list[Any]:
        """Decoded frames start..stop-1: from the nearest key frame if seeking works, else from the first."""
        wanted = self._stamps[start:stop]
        for seek in self._seeks(start):
            with opened(self.info.path) as container:
                stream = streams(container)[0]
                container.seek(seek, stream=stream)
                found: list[Any] = []
                clean = False  # from a key frame on, all is decoded as in the forward pass
                for native in self._natives(container, []):
                    stamp = wanted[0] - 1 if native.pts is None else native.pts
                    clean = clean or (native.key_frame and stamp <= wanted[0] - self._fields)
                    if clean and stamp >= wanted[0]:
                        found.append(native)
                    if stamp >= wanted[-1]:
                        break
                if array("q", [native.pts for native in found]) == wanted:
                    return found
        with self._decoding([]) as natives:
            return list(islice(natives, start, stop))

    def _seeks(self, start: int) -> list[int]:
        """Stamps to seek to for a frame; none if all has to be decoded."""
        key = self._stamps[max((key for key in self._keys if key <= start - self._fields), default=0)]
        mended = self._stamps[-1] - self._stamps[0] != self._ticks[-1]  # or stamps were missing
        if start == 0 or mended or self._moving:
            return []
        # Some containers land behind the key frame that was asked for.
        return [key, key - int(2 / self.info.time_base)]

    @contextmanager
    def _decoding(self, damage: list[str]) -> Iterator[Iterator[Any]]:
        """All frames, decoded from the first one."""
        if self._moving:
            yield moving_frames(self.info.path, damage)
        else:
            with opened(self.info.path) as container:
                yield self._natives(container, damage)

    def _natives(self, container: Any, damage: list[str]) -> Iterator[Any]:
        """Decoded frames, none of them interlaced."""
        frames = decoded(container, streams(container)[0], damage)
        return progressive(frames, self.info.time_base, self._find_fields)

    def _find_fields(self) -> None:
        self._fields = True
        self._note(f"{self.info.path.name}: its interlaced frames are deinterlaced.")


def exact(seconds: float) -> Fraction:
    """Seconds that a person gave: 2.6 is 13/5, and not the binary number next to it."""
    return Fraction(seconds).limit_denominator(1_000_000)


class Part:
    """The frames of a video that are shown from `start` on and before `end`, seconds, as a source.

    Its own times and indices begin at 0. first, last: the video's frames first..last-1 are in it.

    Raises:
        UserError: there is no frame.
    """

    def __init__(
        self, reader: VideoReader, start: Fraction = Fraction(0), end: Fraction | None = None
    ) -> None:
        times = reader.times()
        self.reader, self.notes = reader, reader.notes
        self.first = min(bisect_left(times, start), len(times) - 1)
        self.last = len(times) - 1 if end is None else min(bisect_left(times, end), len(times) - 1)
        if self.first >= self.last:
            until = "its end" if end is None else f"{float(end):g} s"
            raise UserError(
                f"{reader.info.path}: no frame is shown from {float(start):g} s to {until}; the video lasts "
                f"{float(times[-1]):.2f} s"
            )
        self.start, self.seconds = times[self.first], times[self.last] - times[self.first]
        self.info = replace(reader.info, frames=self.last - self.first, seconds=self.seconds)

    def __iter__(self) -> Iterator[Frame]:
        return map(self._own, self.reader.between(self.first, self.last))

    def __reversed__(self) -> Iterator[Frame]:
        return map(self._own, self.reader.back(self.first, self.last))

    def _own(self, frame: Frame) -> Frame:
        return replace(frame, index=frame.index - self.first, time=frame.time - self.start)


Source: TypeAlias = Picture | VideoReader | Part
Length: TypeAlias = Fraction | float | Callable[[Fraction], Fraction]  # seconds; see `plan_frames`


def open_source(path: PathLike, planes: bool | str = True) -> Source:
    """Open a face: a picture or a video. Raises UserError, also for a file with sound only.

    planes: as for `VideoReader`.
    """
    return Picture(path) if probe(path).kind == "picture" else VideoReader(path, planes)


def check_extend(extend: str) -> None:
    """Raise UserError for an `extend` that is none of `EXTEND`."""
    if extend not in EXTEND:
        raise UserError(f"extend is {extend!r}; it must be one of {', '.join(EXTEND)}.")


def plan_frames(source: Source, seconds: Length, extend: str = "pingpong") -> Iterator[Frame]:
    """The output's frames, with the output's times, for so many seconds of speech.

    If the length is not known yet, ``seconds`` is a function of a time: it returns the length of the
    speech, or any number beyond that time if the speech is longer. It is called at most SLACK ahead of
    the next frame.

    A picture gives ceil(seconds x fps) frames. A video that is longer than the speech ends with it; a
    shorter one continues by ``extend``: "pingpong" (back and forth), "loop", "hold" (its last frame), or
    "none" (ends before the speech). If the two ends are within SLACK, which is the usual padding of
    audio codecs, the frames are exactly the video's. Each frame keeps its own duration, also backwards.
    Raises UserError for another ``extend``.
    """
    check_extend(extend)
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
    """The frames after the last one: without end, except for "none"."""
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
