"""The work of the processes: find faces, measure sounds, make videos, speak live.

Visitors' files are opened here alone: a file that crashes a decoder costs its own job.
"""

from __future__ import annotations

import io
import json
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moditalker.config.limits import RATE
from moditalker.errors import UserError
from moditalker.features.face.identity import FaceFrame
from moditalker.features.face.tracker import FaceTracker, largest
from moditalker.geometry.points import lip_opening
from moditalker.jobs.files import write_whole
from moditalker.jobs.pool import report
from moditalker.media import AudioReader, VideoWriter, open_source, probe, tts
from moditalker.media.files import Pixels
from moditalker.motion.track import Track
from moditalker.serve.guard import stay_local
from moditalker.serve.orders import (
    FRAME,
    MOTION,
    PICTURE,
    REPORT,
    SOURCE,
    VIDEO,
    WORDS,
    FoundFaces,
    Inspection,
    LiveJob,
    Upload,
    VideoJob,
)
from moditalker.talker.talker import MoDiTalker
from moditalker.talker.video import Video

SHOWN = 1280  # pixels, of the longer side of the frame that is shown
NEWEST = 640, 0.5  # pixels of the longer side, seconds between two: of frames shown while a video is made
LIVE = 720  # pixels of the longer side of live frames
SEARCH_STEP, SEARCH_SECONDS = Fraction(1, 2), 10  # s: times at which a face is looked for
NICENESS = 5  # of processes that work, so that the one that answers is not kept waiting


def start_worker() -> None:
    """Begin a worker: it gives way to the server, and connects to no other machine."""
    if hasattr(os, "nice"):  # not on Windows
        os.nice(NICENESS)
    stay_local()


def face_worker() -> Callable[[Inspection], FoundFaces | float]:
    """A worker that looks at files and listens to them."""
    start_worker()
    tracker = FaceTracker()
    tracker.detect(np.zeros((256, 256, 3), np.uint8))  # the first time costs more

    def look(inspection: Inspection) -> FoundFaces | float:
        with named(inspection.file):
            path = inspection.file.path
            return (
                _seconds(path, inspection.most)
                if inspection.out is None
                else _look(tracker, path, inspection.out)
            )

    return look


def video_worker(models: Sequence[str], device: str) -> Callable[[VideoJob], None]:
    """A worker that makes videos by the first of some models, or by another one that is asked for."""
    start_worker()
    talkers = {models[0]: MoDiTalker.from_pretrained(models[0], device)}

    def make(order: VideoJob) -> None:
        with named(order.face, order.audio, order.head, folder=order.folder):
            order.folder.mkdir(parents=True, exist_ok=True)
            audio = order.audio.path if order.audio else order.folder / "speech.wav"
            if order.audio is None:
                tts.speak(order.text, audio, order.voice, order.options.lang, order.options.seed)
            seconds = _seconds(audio, order.most)
            if order.model not in talkers:
                while len(talkers) > 1:  # the first and one more are kept
                    talkers.popitem()
                talkers[order.model] = MoDiTalker.from_pretrained(order.model, device)
            _make(talkers[order.model], order, audio, seconds)

    return make


def live_worker(model: str, device: str) -> Callable[[LiveJob], None]:
    """A worker that speaks while it is spoken to."""
    start_worker()
    talker = MoDiTalker.from_pretrained(model, device)

    def live(call: LiveJob) -> None:
        with call.line as line, suppress(BrokenPipeError, ConnectionResetError):  # the visitor has left
            try:
                with named(call.face):
                    _live(talker, call)
            except UserError as error:
                _say(line, "error", error=str(error))

    return live


@contextmanager
def named(*files: Upload | None, folder: Path | None = None) -> Iterator[None]:
    """Mistakes name the visitor's files, and no folder of this machine."""
    try:
        yield
    except UserError as error:
        raise UserError(_renamed(str(error), files).replace(f"{folder}{os.sep}", "")) from error


def _renamed(text: str, files: Sequence[Upload | None]) -> str:
    for file in filter(None, files):
        text = text.replace(str(file.path), file.name).replace(file.path.name, file.name)
    return text


def _look(tracker: FaceTracker, path: Path, out: Path) -> FoundFaces:
    source = open_source(path)
    still = source.info.kind == "picture"
    due = Fraction(0)
    for frame in source:
        if frame.time > SEARCH_SECONDS:
            break
        if frame.time >= due:
            due = frame.time + SEARCH_STEP
            if faces := tracker.detect(frame.image):
                write_whole(out, jpeg(frame.image, SHOWN, 90))
                boxes = [
                    (float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in (f.box for f in faces)
                ]
                height, width = frame.image.shape[:2]
                return FoundFaces(width, height, boxes, float(frame.time), still, int(largest(faces)))
    where = "in the picture" if still else f"in its first {SEARCH_SECONDS} seconds"
    raise UserError(f"{path}: no face was found {where}; give one that shows a face from the front")


def jpeg(image: Pixels, side: int, quality: int = 80) -> bytes:
    """A frame (H, W, 3) as a JPEG whose longer side is at most `side` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=quality)
    return file.getvalue()


def _seconds(path: Path, most: float) -> float:
    """Length of a sound. Raises UserError if it is longer than `most` seconds."""
    declared = probe(path).seconds
    # The declared length costs nothing to read; it may be missing or wrong.
    seconds = float(declared if declared and declared > 2 * most else AudioReader(path).seconds)
    if seconds > most:
        raise UserError(
            f"{path}: {seconds:.1f} s of sound; at most {most:g} s become a video here: cut it, or use the "
            "command line"
        )
    return seconds


def _make(talker: MoDiTalker, order: VideoJob, audio: Path, seconds: float) -> None:
    report("face", 0, 1)
    options, folder = order.options, order.folder
    if order.head is not None:
        options = replace(options, head=order.head.path)
    video = talker.generate(order.face.path, audio, options)
    model = Path(talker.name).name  # of a folder the name alone: no path leaves the machine
    track = _motion(video, seconds, {"preset": model, "weights_sha256": talker.digests, "seed": options.seed})
    track.save(folder / MOTION)
    video = replace(video, motion=track, progress=lambda _, done, total: report("video", done, total))
    shown = _Newest(folder / PICTURE)
    still = video.face.source.info.kind == "picture"
    if still or not order.compare:
        told = video.save(folder / VIDEO, watch=shown)
    else:
        with VideoWriter(folder / SOURCE, video.face.source.info) as writer:
            told = _with_source(video, writer).save(folder / VIDEO, watch=shown)
    given = (order.face, order.audio, order.head)
    told["notes"] = [_renamed(note, given) for note in told["notes"]]
    opening = lip_opening(track.landmarks).astype(float).round(4).tolist()
    told |= {"preset": model, "still": still, "lip_opening": opening}
    write_whole(folder / REPORT, (json.dumps(told, indent=2) + "\n").encode())


class _Newest:
    """Writes the newest frame of a video in the making, twice a second at most."""

    def __init__(self, path: Path) -> None:
        self.path, self.due = path, 0.0

    def __call__(self, image: Pixels) -> None:
        if time.monotonic() >= self.due:
            write_whole(self.path, jpeg(image, NEWEST[0]))
            self.due = time.monotonic() + NEWEST[1]


def _motion(video: Video, seconds: float, made: dict[str, Any]) -> Track:
    """The motion of the whole sound: its curve is shown, and its file offered."""
    blocks, done, total = [], 0, max(1, round(seconds * RATE))
    report("speech", 0, total)
    assert video.motion is not None
    for block in video.motion:
        blocks.append(block)
        done += len(block)
        report("speech", min(done, total), total)
    return Track(video.motion.identity, np.concatenate(blocks), made)


def _with_source(video: Video, writer: VideoWriter) -> Video:
    """The same video, which also writes the source's frames, in a form that browsers play."""

    def frames() -> Iterator[FaceFrame]:
        for face in video.face:
            writer.write(face.frame)
            yield face

    return replace(video, face=replace(video.face, frames=frames))


def _live(talker: MoDiTalker, call: LiveJob) -> None:
    line = call.line
    stream = talker.stream(call.face.path, _heard(line), call.rate, call.options, deadline=call.deadline)
    info, shown = stream.info, 0
    _say(line, "ready", width=info.width, height=info.height, fps=float(info.fps), ahead=stream.ahead)
    for frame, image in stream.video:
        line.send_bytes(FRAME + struct.pack("<d", float(frame.time)) + jpeg(image, LIVE))
        shown += 1
    _say(line, "end", frames=shown, dropped=stream.dropped)


def _say(line: Connection, kind: str, **facts: Any) -> None:
    line.send_bytes(WORDS + json.dumps({"type": kind, **facts}).encode())


def _heard(line: Connection) -> Iterator[np.ndarray]:
    """Sound from a line until an empty message, or until it is cut."""
    with suppress(EOFError, OSError):
        while samples := line.recv_bytes():
            yield np.frombuffer(samples, "<i2").astype(np.float32) / 32768
