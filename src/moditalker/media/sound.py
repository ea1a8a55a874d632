"""Sound: read as mono at 16 kHz, resampled, written as WAV."""

from __future__ import annotations

import tempfile
import threading
import wave
import weakref
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from moditalker.errors import UserError
from moditalker.jobs.files import appearing, disk_full_named
from moditalker.media.files import (
    MAX_BACK,
    MAX_GAP,
    PathLike,
    Samples,
    decoded,
    local,
    opened,
    reason,
    streams,
)

SAMPLE_RATE = 16_000  # Hz, of all sound that is read
RATES = 4_000, 384_000  # Hz, of speech that can be heard; files may have more
MIN_SECONDS = Fraction(1, 25)  # s of sound: one frame at 25 fps

PIECE = 0.1  # s: for so long one way of mixing to mono lasts [ours]
# Power of the mix over that of what its loudest channel adds to it: 1 if one channel alone has sound, 2 for
# channels that have nothing to do with each other, 4 for the same sound in both of two, 0 for opposite phase.
CANCELS, MIXES = 1.2, 1.6  # below: the loudest channel takes the place of the mix; above: the mix comes back
LOUDER = 4  # times the power that another channel needs to take the place of the chosen one
SILENT = 1e-8  # power of a channel in the mix that decides nothing
NOTED = 5  # pieces that are worth a note
HELD_BYTES = 16 << 20  # of decoded sound that are held in memory, 4 minutes; more lies in a temporary file


def anew(start: Fraction, expected: Fraction) -> bool:
    """Whether a time stamp differs so much from the expected one, seconds, that the clock was reset."""
    return not expected - MAX_BACK < start < expected + MAX_GAP


class AudioReader:
    """The sound of a file, iterated as chunks of mono float32 in [-1, 1] at 16 kHz.

    Time 0 is the first frame of the file's video that can be decoded, if it has one, else the first sample;
    gaps between time stamps become silence and overlaps are cut, so that sample n is heard at n / 16000 s. A
    clock that was set anew goes on, as in `VideoReader`. In the mono mix of surround sound the centre counts
    1, front 0.71, back and side 0.5, low frequencies 0, divided by their sum: nothing clips. Where channels
    cancel each other, or one alone has sound, the mix is the loudest channel; ``notes`` says so once all
    has been read. ``track``: number of the sound track, from 1; None: the one that players take. Raises
    UserError if there is no sound, or no such track.

    A file is decoded once: the sound that `seconds` decodes is held for later iteration.
    """

    def __init__(self, path: PathLike, track: int | None = None) -> None:
        self.path, self.track = local(path), track
        self.notes: list[str] = []
        with opened(self.path) as container:
            tracks, audio = container.streams.audio, streams(container, track)[1]
            if track is not None and not 1 <= track <= len(tracks):
                raise UserError(
                    f"{path}: sound track {track} was asked for, and it has {len(tracks) or 'none'}; tracks "
                    "count from 1."
                )
            if audio is None and tracks:
                raise UserError(f"{path}: the codec of its sound cannot be read; export it as .wav or .m4a.")
            if audio is None:
                raise UserError(f"{path}: there is no sound track in it; give a file with speech.")
            if track is None and len(tracks) > 1:
                self._note(
                    f"{self.path.name}: it has {len(tracks)} sound tracks; track {tracks.index(audio) + 1} "
                    f"({_described(audio)}) is used; --audio-track chooses another."
                )

    @cached_property
    def zero(self) -> Fraction:
        """The file's own time stamp of time 0, seconds."""
        with opened(self.path) as container:
            video, audio = streams(container, self.track)
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
        end = self._decoded.end
        if end < MIN_SECONDS:
            raise UserError(
                f"{self.path}: {float(end):.3f} s of sound; at least {float(MIN_SECONDS):.2f} s, one frame "
                "at 25 fps, is needed: give a longer recording."
            )
        return end

    @property
    def whole(self) -> bool:
        """Whether no gap and no overlap interrupts it, found by decoding it all."""
        return self._decoded.whole

    @cached_property
    def _decoded(self) -> _Decoded:
        """All of the sound at 16 kHz, decoded now."""
        held = _Decoded()

        def timed() -> Iterator[tuple[Any, Fraction]]:
            for frame, start in self._timed():
                held.whole = held.whole and (start == held.end or not held.end)
                held.end = start + Fraction(frame.samples, frame.sample_rate)
                yield frame, start

        for samples in self._mixed(timed(), SAMPLE_RATE, 1):
            held.append(samples[0])
        return held

    def _timed(self) -> Iterator[tuple[Any, Fraction]]:
        """Decoded frames and their start: samples are counted while the (rounded) stamps agree with that."""
        expected: Fraction | None = None  # nothing is, before the first
        zero, damage = self.zero, list[str]()
        with opened(self.path) as container:
            for frame in decoded(container, streams(container, self.track)[1], damage):
                if not frame.samples or not frame.sample_rate:
                    continue
                if frame.sample_rate < RATES[0]:
                    raise UserError(
                        f"{self.path}: {frame.sample_rate} samples a second hold no speech; at least "
                        f"{RATES[0]} are needed: export it again, for example as .wav."
                    )
                stamp = zero + (expected or 0) if frame.pts is None else frame.pts * frame.time_base
                start = stamp - zero
                if expected is not None and anew(start, expected):
                    zero += start - expected
                    start = expected
                elif expected is not None and abs(start - expected) <= Fraction(1, 20):
                    start = expected
                yield frame, start
                expected = start + Fraction(frame.samples, frame.sample_rate)
        if damage:
            self._note(f"{self.path.name}: {len(damage)} damaged pieces of the sound were skipped.")

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def blocks(self, rate: int, channels: int) -> Iterator[Samples]:
        """The sound at any rate as mono or stereo: (channels, n <= rate) float32 in [-1, 1]."""
        return self._mixed(self._timed(), rate, channels)

    def _mixed(self, timed: Iterable[tuple[Any, Fraction]], rate: int, channels: int) -> Iterator[Samples]:
        resampler, form, mixer = None, None, _Mixer(np.zeros((channels, 0), np.float32), rate)
        alone = 0  # pieces in which one channel stands for all
        given, skip, expected = 0, 0, Fraction(0)  # samples given, samples to be cut, end of the last frame

        def taken(frames: list[av.AudioFrame]) -> Iterator[Samples]:
            nonlocal given, skip
            for frame in frames:
                packed = frame.to_ndarray().reshape(frame.samples, -1)  # planes would end at 8 channels
                samples = cast(Samples, np.nan_to_num(packed[skip:]))
                skip, given = max(0, skip - frame.samples), given + len(samples)
                yield from mixer.push(samples)

        def rest() -> Iterator[Samples]:
            nonlocal alone
            if resampler is not None:
                yield from taken(self._resampled(resampler, None))
            yield from mixer.finish()
            alone += mixer.alone

        for frame, start in timed:
            if start != expected or form != (frame.format.name, frame.layout.name, frame.sample_rate):
                yield from rest()
                form = (frame.format.name, frame.layout.name, frame.sample_rate)
                resampler = av.AudioResampler("flt", frame.layout, rate)
                mixer = _Mixer(_mix([channel.name for channel in frame.layout.channels], channels), rate)
                gap = round(start * rate) - given
                skip = max(0, -gap)
                for i in range(0, gap, rate):
                    yield np.zeros((channels, min(rate, gap - i)), np.float32)
                given += max(0, gap)
            expected, frame.pts = start + Fraction(frame.samples, frame.sample_rate), None
            yield from taken(self._resampled(cast(av.AudioResampler, resampler), frame))
        yield from rest()
        if alone >= NOTED:
            self._note(
                f"{self.path.name}: its channels cancel each other, or one alone has sound; the loudest "
                "channel moves the mouth there."
            )

    def _resampled(self, resampler: av.AudioResampler, frame: Any) -> list[av.AudioFrame]:
        try:
            return resampler.resample(frame)
        except (av.error.FFmpegError, ValueError) as error:
            form = "" if frame is None else f"{frame.sample_rate} samples a second, {frame.layout.name}: "
            raise UserError(
                f"{self.path}: its sound cannot be converted ({form}{reason(error)}); the file is "
                "damaged, or says what it is not: export it again, for example as .wav."
            ) from error

    def __iter__(self) -> Iterator[Samples]:
        if "_decoded" in vars(self):
            return iter(self._decoded)
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


class _Decoded:
    """A file's sound at 16 kHz, held in memory or in a temporary file, with its exact end in seconds."""

    def __init__(self) -> None:
        self.end, self.whole = Fraction(0), True
        self._file = tempfile.SpooledTemporaryFile(HELD_BYTES)  # noqa: SIM115 (closed with this object)
        self._lock = threading.Lock()
        weakref.finalize(self, self._file.close)

    def append(self, samples: Samples) -> None:
        with disk_full_named(Path(tempfile.gettempdir())):
            self._file.write(np.ascontiguousarray(samples, np.float32).tobytes())

    def __iter__(self) -> Iterator[Samples]:
        """From the start on, a second at a time; by several readers at once."""
        place = 0
        while True:
            with self._lock:
                self._file.seek(place)
                piece = self._file.read(SAMPLE_RATE * 4)
            if not piece:
                return
            place += len(piece)
            yield np.frombuffer(piece, np.float32).copy()


def _described(audio: Any) -> str:
    """The description of a sound track."""
    default = audio.disposition & av.stream.Disposition.default
    words = (audio.metadata.get("title"), audio.language, audio.codec_context.codec.canonical_name)
    return ", ".join([*filter(None, words), "the default" if default else "the first"])


class _Mixer:
    """Samples (n, channels) -> (outputs, n) float32 in [-1, 1], by weights (outputs, channels).

    A mono mix in which channels cancel each other has little of what loudspeakers play, and one in
    which a single channel has sound is quieter than that channel. There the loudest channel takes its place.
    This is decided for each PIECE of the sound by powers of the past, faded over a piece, and depends on the
    samples alone, not on how they were cut.
    """

    def __init__(self, mix: Samples, rate: int) -> None:
        self.mix, self.size, self.alone = mix, max(1, round(PIECE * rate)), 0
        self._choosing = len(mix) == 1 and mix.shape[1] > 1
        self._held = np.zeros((0, mix.shape[1]), np.float32)
        self._powers: NDArray[np.float64] | None = None  # of the mix, and of what each channel adds to it
        self._channel: int | None = None  # that stands for all; None: the mix
        self._last: Samples | None = None  # weights at the end of the piece before

    def push(self, samples: Samples) -> Iterator[Samples]:
        """Mix these samples, and hold what is less than a piece."""
        if not self._choosing:
            for i in range(0, len(samples), 10 * self.size):
                yield (self.mix @ samples[i : i + 10 * self.size].T).clip(-1, 1)
            return
        held = np.concatenate([self._held, samples])
        whole = len(held) // self.size * self.size
        self._held = held[whole:]
        for i in range(0, whole, self.size):
            yield self._mixed(held[i : i + self.size])

    def finish(self) -> Iterator[Samples]:
        """Mix what is held."""
        if len(self._held):
            yield self._mixed(self._held)
            self._held = self._held[:0]

    def _mixed(self, piece: Samples) -> Samples:
        self._choose(piece)
        weights = self.mix
        if self._channel is not None:
            weights = np.eye(self.mix.shape[1], dtype=np.float32)[self._channel, None]
            self.alone += 1
        mixed = weights @ piece.T
        if self._last is not None and self._last is not weights and (self._last != weights).any():
            share = np.linspace(0, 1, len(piece), dtype=np.float32)
            mixed = share * mixed + (1 - share) * (self._last @ piece.T)
        self._last = weights
        return cast(Samples, mixed.clip(-1, 1))

    def _choose(self, piece: Samples) -> None:
        parts = np.square(piece * self.mix, dtype=np.float64).mean(0)
        powers = np.array([np.square(piece @ self.mix[0], dtype=np.float64).mean(), *parts])
        self._powers = powers if self._powers is None else (self._powers + powers) / 2
        mixed, parts = self._powers[0], self._powers[1:]
        loudest = int(parts.argmax())
        if parts[loudest] < SILENT:
            return
        if mixed >= parts[loudest] * (CANCELS if self._channel is None else MIXES):
            self._channel = None
        elif self._channel is None or parts[loudest] > LOUDER * parts[self._channel]:
            self._channel = loudest


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


def write_wav(path: Path, samples: NDArray[np.floating], rate: int = SAMPLE_RATE) -> None:
    """Sound (N,) in [-1, 1] as 16-bit WAV; the file appears whole or not at all. rate: samples a second."""
    write_blocks(path, [samples[None]], rate, 1)


def write_blocks(path: Path, blocks: Iterable[NDArray[np.floating]], rate: int, channels: int) -> None:
    """`write_wav` for blocks (channels, n), which are written as they come."""
    with appearing(path) as whole, wave.open(whole, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        for block in blocks:
            file.writeframes((block.T * 32767).astype("<i2").tobytes())
