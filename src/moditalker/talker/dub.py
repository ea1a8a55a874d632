"""A film with new speech: generated mouths where somebody speaks, the film's own frames elsewhere.

Each stretch of new speech is a video of its own, made of that part of the film. One pass over the film puts
these in their places. Frames elsewhere are the film's, and so are all time stamps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from moditalker.config.limits import RATE
from moditalker.errors import UserError
from moditalker.features.face.identity import FADE_SECONDS, FaceFrame
from moditalker.features.speech.silence import PATIENT, silence
from moditalker.jobs.streams import Clock
from moditalker.media import PIXELS, SAMPLE_RATE, AudioReader, Frame, Part, VideoReader, exact
from moditalker.media.held import Held, hold_mix, hold_sound, hold_text
from moditalker.media.mixing import DUCKED, Placed, Tape, mixed
from moditalker.talker.lines import Line
from moditalker.talker.options import Options
from moditalker.talker.saving import Kept
from moditalker.talker.steps import FaceTrack, Origin, Progress
from moditalker.talker.video import Video

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

PAUSE = Fraction(3, 5)  # s without speech from which on lips are the film's again
AROUND = Fraction(1, 5)  # s before and after speech in which lips are new, too


@dataclass(frozen=True)
class Segment:
    """Seconds of a film in which somebody speaks. skip: seconds of the sound that come before."""

    start: Fraction
    end: Fraction
    sound: AudioReader
    skip: Fraction
    options: Options


@dataclass(frozen=True)
class Film(Video):
    """A film with new speech in the making: iterating yields (frame, image) of the whole film.

    make: makes a segment's part of the film; None where no face is seen.
    """

    parts: Sequence[tuple[Part, Segment]] = ()
    make: Callable[[Segment, Part, Any], Video | None] = field(default=lambda *_: None)

    def __iter__(self) -> Iterator[tuple[Frame, Pixels]]:
        source = self.face.source
        assert isinstance(source, VideoReader)
        self.kept.clear()
        tapes: dict[int, Tape] = {}
        waiting = list(self.parts)
        part: Part | None = None
        made: Iterator[tuple[Frame, Pixels]] | None = None
        video: Video | None = None
        for frame in source:
            if made is None and waiting and frame.index == waiting[0][0].first:
                part, segment = waiting.pop(0)
                tape = tapes.setdefault(id(segment.sound), Tape((block[None] for block in segment.sound), 0))
                video = self.make(segment, part, tape)
                made = iter(video) if video is not None else None
            image = frame.image
            if made is not None and part is not None and video is not None:
                image = next(made)[1]
                if frame.index == part.last - 1:
                    assert next(made, None) is None
                    self.kept.extend(
                        Kept(one.first + part.first, one.last + part.first, one.reason) for one in video.kept
                    )
                    made = None
            yield frame, image
            if self.progress is not None:
                self.progress("generating", frame.index + 1, self.face.expected)


def dubbed(
    talker: Any,
    held: Held,
    audio: Held | None,
    text: str,
    lines: Sequence[Line],
    options: Options,
    progress: Progress | None,
) -> Film:
    """`MoDiTalker.dub`. talker: a `MoDiTalker`."""
    if (audio is not None) + bool(text) + bool(lines) != 1:
        raise UserError("new speech is one of three: a sound (audio), a text or a table; give one of them")
    source, clock, notes = (
        VideoReader(held.path, PIXELS.get(options.pixel_format, True)),
        Clock(),
        list[str](),
    )
    if progress is not None:
        progress("reading the film", 0, 1)
    with clock.stage("preparing"):
        length = source.times()[-1]
        if lines:
            if options.start or options.end is not None or options.offset:
                raise UserError("start, end and offset: go without a table, which has its own times")
            holds, segments = _of_lines(lines, options, length, notes)
        else:
            spoken = options.voice, options.lang, options.seed
            holds = [audio or hold_text(text, *spoken)]
            sound = AudioReader(holds[0].path, options.audio_track)
            segments = _of_sound(sound, options, length)
            late = _begin(options) + sound.seconds - min(length, _end(options, length))
            if late > 0:
                notes.append(f"The speech is {float(late):.2f} s longer than its place; its end is cut.")
        if not segments:
            raise UserError(
                f"{held.path}: no speech comes within its {float(length):.2f} s; give another time"
            )
        mix = _mix(source, segments, options, length)
        parts = _parts(source, segments, options, length)

    def make(segment: Segment, part: Part, tape: Tape) -> Video | None:
        first = segment.skip + part.start - segment.start
        begin, stop = (round(at * SAMPLE_RATE) for at in (first, first + part.seconds))
        samples = np.zeros((1, stop - begin), np.float32)
        tape.add(begin, samples)
        speech_file = hold_sound(samples[0])
        try:
            track = talker._found(part, part.seconds, segment.options, (held, speech_file))
        except UserError as error:
            if "no face was found" not in str(error):
                raise
            notes.append(
                f"{float(part.start):.2f} to {float(part.start + part.seconds):.2f} s: no face is seen, so "
                "the film's frames are kept."
            )
            return None
        frames = track.frames
        if options.silence == "keep":
            frames = lambda: _edged(track.frames(), float(part.seconds))  # noqa: E731
        speech = replace(talker.speech(speech_file.path), clock=clock)
        said = talker.motion(speech, track, options.seed, options.steps).styled(options.style)
        video: Video = talker.video(replace(track, frames=frames), said, options.seed, options.steps)
        return replace(video, clock=clock, provenance=options.provenance, began=part.start)

    shown = FaceTrack(source, cast(Any, None), length, lambda: iter(()))  # each part has its own
    origin = Origin(talker.name, talker.digests, talker.loading_seconds)
    return Film(
        talker.sampler,
        talker.config,
        origin,
        shown,
        None,
        options.seed,
        options.steps,
        audio=mix.path,
        clock=clock,
        progress=progress,
        **options.of_the_file(),
        notes=notes,
        film=held.path,
        holds=(held, mix, *holds),
        parts=parts,
        make=make,
    )


def _begin(options: Options) -> Fraction:
    return exact(options.start) + exact(options.offset)


def _end(options: Options, length: Fraction) -> Fraction:
    """Where new speech ends in a film of this length, which may be shorter."""
    return length if options.end is None else exact(options.end)


def _edged(frames: Iterator[FaceFrame], length: float) -> Iterator[FaceFrame]:
    """The generated mouth comes and goes at the ends of its part."""
    for face in frames:
        near = min(float(face.frame.time), length - float(face.frame.time + face.frame.duration))
        strength = min(1.0, max(0.0, near / FADE_SECONDS))
        yield replace(face, strength=min(face.strength, strength))


def _of_sound(sound: AudioReader, options: Options, length: Fraction) -> list[Segment]:
    """Where somebody speaks in a sound that begins at `_begin`, in the film's seconds."""
    begin, segments = _begin(options), list[Segment]()
    end = min(length, begin + sound.seconds, _end(options, length))
    first = max(Fraction(0), exact(options.start))
    step = 1 / Fraction(RATE)
    for number, silent in enumerate(silence(sound, PATIENT)):
        at = begin + number * step
        if silent >= 0.5 or at + step <= first or at >= end:
            continue
        start, stop = max(first, at - AROUND), min(end, at + step + AROUND)
        if segments and start - segments[-1].end < PAUSE - 2 * AROUND:
            segments[-1] = replace(segments[-1], end=stop)
        else:
            segments.append(Segment(start, stop, sound, start - begin, options))
    return segments


def _of_lines(
    lines: Sequence[Line], options: Options, length: Fraction, notes: list[str]
) -> tuple[list[Held], list[Segment]]:
    holds, segments = list[Held](), list[Segment]()
    for number, line in enumerate(lines):
        place = f"The line at {float(line.start):.2f} s"
        if line.start >= length:
            raise UserError(f"{place} begins after the film, which lasts {float(length):.2f} s; take it out")
        following = lines[number + 1].start if number + 1 < len(lines) else length
        late = line.start if line.end is None else line.end
        if number + 1 < len(lines) and (late > following or line.start == following):
            raise UserError(f"{place} overlaps the next one; one person speaks at a time: change its end")
        if line.audio is None:
            voice = (line.voice, line.lang) if line.voice or line.lang else (options.voice, options.lang)
            held = hold_text(line.text, *voice, options.seed)
        else:
            held = Held(line.audio)
        sound = AudioReader(held.path)
        # Speech may go on after its end, up to the next line.
        end = min(line.start + sound.seconds, following, length)
        if (cut := line.start + sound.seconds - end) > Fraction(1, 20):
            notes.append(f"{place} is {float(cut):.2f} s longer than its place; its end is cut.")
        choose = options.choose if line.face is None else line.face
        holds.append(held)
        segments.append(Segment(line.start, end, sound, Fraction(0), replace(options, choose=choose)))
    return holds, segments


def _parts(
    source: VideoReader, segments: list[Segment], options: Options, length: Fraction
) -> list[tuple[Part, Segment]]:
    """The parts of the film that get a generated mouth: those with a frame."""
    times = source.times()
    if options.silence == "keep":
        spans = [(one.start, one.end) for one in segments]
    else:
        starts = [Fraction(0), *(one.start for one in segments[1:]), length]
        spans = list(pairwise(starts))
    return [
        (Part(source, *span), one)
        for span, one in zip(spans, segments, strict=True)
        if bisect_left(times, span[0]) < bisect_left(times, span[1])
    ]


def _mix(source: VideoReader, segments: list[Segment], options: Options, length: Fraction) -> Held:
    own = AudioReader(source.info.path) if source.info.has_audio else None
    first = segments[0]
    if all(one.sound is first.sound for one in segments[1:]):  # it is heard also between its words
        begin = max(exact(options.start), first.start - first.skip)
        placed = [Placed(first.sound, begin, begin - (first.start - first.skip), _end(options, length))]
    else:
        placed = [Placed(one.sound, one.start, until=one.end) for one in segments]
    level = DUCKED if options.original == "duck" else 0.0
    return hold_mix(mixed(length, placed, own, [(one.start, one.end) for one in segments], level))
