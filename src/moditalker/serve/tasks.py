"""What the worker processes do: look at a face, listen to speech, make a video. Files in, values out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moditalker.config.limits import RATE
from moditalker.errors import UserError
from moditalker.features.face.identity import FaceFrame
from moditalker.features.face.tracker import FaceTracker, largest
from moditalker.geometry.points import lip_opening
from moditalker.media import AudioReader, Frame, VideoWriter, open_source, probe, tts
from moditalker.motion.track import Track
from moditalker.serve.worker import Report, Task
from moditalker.talker.options import Options
from moditalker.talker.talker import MoDiTalker
from moditalker.talker.video import Video

SHOWN = 1280  # pixels, of the longer side of the frame that is shown
SEARCH_STEP, SEARCH_SECONDS = Fraction(1, 2), 10  # s: where a face is looked for until one is found

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Seen:
    """A face file as it was found to be.

    picture: of the frame that is shown, at most SHOWN on a side; scale: its pixels for one of the frame;
    faces: boxes (x0, y0, x1, y1) in pixels of the frame, from left to right; second: of the frame; still: it
    is no video; largest: index of the face that is taken unless another is chosen.
    """

    picture: Path
    scale: float
    faces: list[Box]
    second: float
    still: bool
    largest: int = 0


@dataclass(frozen=True)
class Order:
    """What a visitor wants: a face and speech, either recorded or typed, and how."""

    face: Path
    audio: Path | None = None
    text: str = ""
    voice: str = tts.DEFAULT_VOICE
    options: Options = Options()  # noqa: RUF009 (frozen)


@dataclass(frozen=True)
class Made:
    """A video, what it was made from at the same times (None: a still picture), and what else is known.

    opening: of the lips over the eye distance, RATE times a second.
    """

    video: Path
    source: Path | None
    motion: Path
    report: Path
    opening: list[float]
    told: dict[str, Any]


def looking() -> Task:
    """The task `look`, with its networks."""
    tracker = FaceTracker()
    tracker.detect(np.zeros((256, 256, 3), np.uint8))  # the first time costs more

    def look(report: Report, path: Path, out: Path | None = None, most: float = 0) -> Seen | float:
        """The faces of a picture or video, or, without `out`, the length of a sound of `most` seconds."""
        with _named(path):
            return _seconds(path, most) if out is None else _look(tracker, path, out)

    return look


def making(preset: str, device: str) -> Task:
    """The task `make`, with its networks."""
    talker = MoDiTalker.from_pretrained(preset, device)

    def make(report: Report, order: Order, folder: Path, most: float) -> Made:
        """Make a video into a folder."""
        audio = order.audio or folder / "speech.wav"
        with _named(order.face, audio):
            if order.audio is None:
                tts.speak(order.text, audio, order.voice)
            seconds = _seconds(audio, most)
            return _make(talker, report, order, audio, seconds, folder)

    return make


@contextmanager
def _named(*paths: Path) -> Iterator[None]:
    """Mistakes name the visitor's file, not where it lies here."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for path in paths:
            text = text.replace(str(path), path.name)
        raise UserError(text) from error


def _look(tracker: FaceTracker, path: Path, out: Path) -> Seen:
    source = open_source(path)
    still = source.info.kind == "picture"
    due = Fraction(0)
    for frame in source:
        if frame.time > SEARCH_SECONDS:
            break
        if frame.time >= due:
            due = frame.time + SEARCH_STEP
            if faces := tracker.detect(frame.image):
                scale = _show(frame, out)
                boxes = [face.box for face in faces]
                return Seen(out, scale, boxes, float(frame.time), still, largest(faces))
    where = "in the picture" if still else f"in its first {SEARCH_SECONDS} seconds"
    raise UserError(f"{path.name}: no face was found {where}; give one that shows a face from the front")


def _show(frame: Frame, out: Path) -> float:
    """Write a frame small enough to be shown; how much smaller it is."""
    picture = Image.fromarray(frame.image)
    scale = min(1.0, SHOWN / max(picture.size))
    if scale < 1:
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    picture.save(out, quality=92)
    return scale


def _seconds(path: Path, most: float) -> float:
    """Length of a sound. Raises UserError where it is longer than `most` seconds."""
    declared = probe(path).seconds
    # What the file says costs nothing to ask; it may not know, or lie.
    seconds = float(declared if declared and declared > 2 * most else AudioReader(path).seconds)
    if seconds > most:
        raise UserError(
            f"{path.name}: {seconds:.1f} s of sound; at most {most:g} s become a video here: cut it, "
            "or use the command line"
        )
    return seconds


def _make(
    talker: MoDiTalker, report: Report, order: Order, audio: Path, seconds: float, folder: Path
) -> Made:
    report("face", 0, 1)
    video = talker.generate(order.face, audio, order.options)
    made_by = {"preset": talker.name, "weights_sha256": talker.digests, "seed": order.options.seed}
    track = _listen(video, seconds, report, made_by)
    video = replace(video, motion=track, progress=lambda _, done, total: report("video", done, total))
    made = Made(
        folder / "talking.mp4",
        None if video.face.source.info.kind == "picture" else folder / "source.mp4",
        folder / "motion.json",
        folder / "report.json",
        lip_opening(track.landmarks).astype(float).tolist(),
        {},
    )
    track.save(made.motion)
    if made.source is None:
        told = video.save(made.video)
    else:
        with VideoWriter(made.source, video.face.source.info) as writer:
            told = _beside(video, writer).save(made.video)
    made.report.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return replace(made, told=told)


def _listen(video: Video, seconds: float, report: Report, made: dict[str, Any]) -> Track:
    """The motion, made at once: its curve is shown, and its file offered."""
    blocks, done, total = [], 0, max(1, round(seconds * RATE))
    report("speech", 0, total)
    assert video.motion is not None
    for block in video.motion:
        blocks.append(block)
        done += len(block)
        report("speech", min(done, total), total)
    return Track(video.motion.identity, np.concatenate(blocks), made)


def _beside(video: Video, writer: VideoWriter) -> Video:
    """The same video, which writes the source's frames on its way: whatever was given, browsers play it."""

    def frames() -> Iterator[FaceFrame]:
        for face in video.face:
            writer.write(face.frame)
            yield face

    return replace(video, face=replace(video.face, frames=frames))
