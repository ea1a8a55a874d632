"""Sound: read as mono at 16 kHz, resampled, written as WAV."""

from __future__ import annotations

import wave
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from numpy.typing import NDArray

from moditalker.errors import UserError
from moditalker.media.files import MAX_BACK, MAX_GAP, PathLike, Samples, decoded, local, opened, streams

SAMPLE_RATE = 16_000  # Hz, of all sound that is read
MIN_SECONDS = Fraction(1, 25)  # s of sound: one frame at 25 fps


def anew(start: Fraction, expected: Fraction) -> bool:
    """Whether a time stamp is so far from where it should be, seconds, that the clock was set anew."""
    return not expected - MAX_BACK < start < expected + MAX_GAP


class AudioReader:
    """The sound of a file, iterated as chunks of mono float32 in [-1, 1] at 16 kHz.

    Time 0 is the first frame of the file's video that can be decoded, if it has one, else the first sample;
    gaps between time stamps become silence and overlaps are cut, so that sample n is heard at n / 16000 s. A
    clock that was set anew goes on, as in `VideoReader`. In the mono mix of surround sound the centre counts
    1, front 0.71, back and side 0.5, low frequencies 0, divided by their sum: nothing clips. Raises UserError
    if there is no sound.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = local(path)
        self.notes: list[str] = []
        with opened(self.path) as container:
            if streams(container)[1] is None:
                raise UserError(f"{path}: there is no sound track in it; give a file with speech.")

    @cached_property
    def zero(self) -> Fraction:
        """The file's own time stamp of time 0, seconds."""
        with opened(self.path) as container:
            video, audio = streams(container)
            pictured = video is not None
            first = next((frame for frame in decoded(container, audio, []) if frame.pts is not None), None)
            start = Fraction(0) if first is None else first.pts * first.time_base
        if not pictured:
            return cast(Fraction, start)
        with opened(self.path) as container:
            video, _ = streams(container)
            frame = next(decoded(container, video, []), None)
            stamp = video.start_time if frame is None or frame.pts is None else frame.pts
            shown = (stamp or 0) * video.time_base
        return cast(Fraction, shown if abs(start - shown) <= MAX_GAP else start)

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

    @cached_property
    def whole(self) -> bool:
        """Whether no gap and no overlap interrupts it."""
        end = Fraction(0)
        for frame, start in self._timed():
            if start != end and end:
                return False
            end = start + Fraction(frame.samples, frame.sample_rate)
        return True

    def _timed(self) -> Iterator[tuple[Any, Fraction]]:
        """Decoded frames and their start: samples are counted while the (rounded) stamps agree with that."""
        expected: Fraction | None = None  # nothing is, before the first
        zero, damage = self.zero, list[str]()
        with opened(self.path) as container:
            for frame in decoded(container, streams(container)[1], damage):
                if not frame.samples or not frame.sample_rate:
                    continue
                stamp = zero + (expected or 0) if frame.pts is None else frame.pts * frame.time_base
                start = stamp - zero
                if expected is not None and anew(start, expected):
                    zero += start - expected
                    start = expected
                elif expected is not None and abs(start - expected) <= Fraction(1, 20):
                    start = expected
                yield frame, start
                expected = start + Fraction(frame.samples, frame.sample_rate)
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


def write_wav(path: Path, samples: NDArray[np.floating]) -> None:
    """Sound (N,) in [-1, 1] at SAMPLE_RATE as 16-bit WAV; the file appears whole or not at all."""
    part = path.with_suffix(".part")
    with wave.open(str(part), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    part.replace(path)
