"""A video in the making: frames with faces and a motion in, frames with a generated mouth out.

Everything streams. Finding faces, making mouths and pasting run in parallel, each in its own thread, a
bounded number of frames apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moditalker.config import Config
from moditalker.errors import UserError
from moditalker.jobs.machine import half_the_threads, peak_rss, processors
from moditalker.jobs.streams import Clock, ahead
from moditalker.media import QUALITY, Frame, VideoWriter
from moditalker.motion.track import Track
from moditalker.provenance import DEFAULT, Provenance, mark
from moditalker.talker.layers import Layering, Layers
from moditalker.talker.saving import Kept, facts, kept_frames, seconds_of, statement
from moditalker.talker.steps import FaceTrack, Motion, Origin, Progress
from moditalker.talker.targets import Live, Targets
from moditalker.video.blend import Blender
from moditalker.video.compose import Composer
from moditalker.video.front import keep_front
from moditalker.video.interior import load_interior
from moditalker.video.stage import VideoStage

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

AHEAD, AHEAD_BYTES = 16, 16 << 20  # frames that one stage may be ahead of the next, at most, and their bytes


@dataclass(frozen=True)
class Video:
    """A video in the making: iterating yields (frame of the source, new image (H, W, 3) uint8) in order."""

    stage: VideoStage
    config: Config
    origin: Origin
    face: FaceTrack
    motion: Motion | Track | None  # None: the face's own landmarks, which make again what is there
    seed: int = 0
    steps: int | None = None
    audio: Path | None = None
    audio_track: int | None = None  # number of its sound track, from 1; None: the one that players take
    clock: Clock = field(default_factory=Clock)
    progress: Progress | None = None
    provenance: Provenance | None = DEFAULT  # None: nothing says it is synthetic
    quality: float = QUALITY  # of the file, where `save` is given none
    size: str = ""  # this and the next two: as in `Options`
    codec: str = "h264"
    pixel_format: str = ""
    notes: Sequence[str] = ()  # of the sound, for the report
    away: float = 0.0  # seconds: frames of the source nearer in time do not lend their mouths
    began: Fraction = Fraction(0)  # seconds of a film before its first frame
    film: Path | None = None  # whose other tracks, subtitles and chapters the file keeps
    live: Live | None = None  # None: every frame is made, however long it takes
    holds: tuple[object, ...] = ()  # temporary files that it is made of
    kept: list[Kept] = field(default_factory=list)  # known once it has been iterated

    @property
    def targets(self) -> Targets:
        """The frames with the mouths that they shall have."""
        return Targets(self.face, self.motion, self.config, self.clock, self.live)

    def __iter__(self) -> Iterator[tuple[Frame, Pixels]]:
        # Finding faces, making mouths and pasting run in parallel, each in its own thread.
        info = self.face.source.info
        lead = max(1, min(AHEAD, AHEAD_BYTES // (3 * info.width * info.height)))
        self.kept.clear()
        with half_the_threads():
            # Threads that share two processors wait for each other more than they gain: two are enough.
            few, targets = processors() <= 2, self.targets
            seen = targets.seen(0 if few else lead)
            if self.live is not None:  # all that no sound is needed for is done before it comes
                wished = targets.wished(ahead(self.clock.each("trust", targets.trusted(seen)), lead))
            else:
                wished = targets.trusted(targets.wished(seen))
                if few:
                    wished = self.clock.each("waiting", ahead(self.clock.each("video", wished), lead))
            layering = Layering(self.stage, self.config.compose, info, self.seed, self.steps, self.away)
            made = self.clock.each("video", layering(wished))
            if not few:
                made = ahead(made, lead)
            pictures = self._pictures(made)
            if self.live is None:  # while the reader writes one, the next is put together
                pictures = ahead(pictures, 1)
            for number, (frame, image) in enumerate(self.clock.each("waiting", pictures)):
                yield frame, image
                if self.progress is not None:
                    self.progress("generating", number + 1, self.face.expected)

    def _pictures(self, made: Iterable[Layers]) -> Iterator[tuple[Frame, Pixels]]:
        crop, settings, rules = self.config.crop, self.config.compose, self.config.rules
        painter = load_interior() if settings.enabled and settings.inside == "painter" else None
        composer = Composer(crop, painter)
        blender = Blender(crop, float(self.face.source.info.fps), rules.colours, rules.grain)
        for number, layers in enumerate(self.clock.each("waiting", made)):
            face = layers.target.face
            if layers.target.lacks:
                self._keep(number, layers.target.lacks)
            if self.live is not None and self.live.late(face.frame):
                if face.cut:
                    blender.reset()
                continue
            with self.clock.stage("paste"):
                image = self._pasted(blender, composer, layers)
            yield face.frame, image

    def save(
        self,
        out: str | Path,
        audio: str | Path | None = None,
        lossless: bool = False,
        watch: Callable[[Pixels], None] | None = None,
        quality: float | None = None,
    ) -> dict[str, Any]:
        """Write the video with the speech's sound (`audio` replaces it); the report of what was done.

        watch: called with each frame (H, W, 3) uint8 RGB as it is written. quality: x264's constant rate
        factor, 0 (best) to 40; None: that of the options.

        Raises:
            UserError: the file cannot be written, or is one of the inputs; its manifest cannot be
                signed; the quality is out of bounds.
        """
        source, sound = self.face.source, Path(audio) if audio is not None else self.audio
        for taken in (source.info.path, self.face.head, sound):
            if taken is not None and Path(out).exists() and taken.exists() and Path(out).samefile(taken):
                raise UserError(f"{out}: is one of the inputs; choose another name for the result")
        track = self.audio_track if audio is None else None
        making = {"seed": self.seed, "steps": self.steps}
        metadata, seal, said = statement(Path(out), self.provenance, self.origin, making, self.clock)
        self.clock.forget(keep={"preparing"})  # of an earlier run
        frames, begun = 0, time.perf_counter()
        with (
            self.clock.stage("write"),
            VideoWriter(
                out,
                source.info,
                sound,
                track=track,
                lossless=lossless,
                quality=self.quality if quality is None else quality,
                metadata=metadata,
                seal=seal,
                film=self.film,
                size=self.size,
                codec=self.codec,
                pixel_format=self.pixel_format,
                recode_audio=self.film is not None and audio is None,
            ) as writer,
        ):
            for frame, image in self:
                writer.write(frame, image)
                frames += 1
                if watch is not None:
                    watch(image)
        seconds = self.face.seconds
        return {
            "frames": frames,
            "fps": float(source.info.fps),
            "width": writer.width,
            "height": writer.height,
            "audio_seconds": None if seconds is None else float(seconds),
            "seconds": seconds_of(self.clock, self.origin, time.perf_counter() - begun),
            "peak_rss_bytes": peak_rss(),
            "frames_without_face": kept_frames(self.kept),
            "frames_dropped": 0 if self.live is None else self.live.dropped,
            "notes": list(dict.fromkeys((*source.notes, *self.notes, *writer.notes))),
            "provenance": said,
            **facts(self.origin, making),
        }

    def _pasted(self, blender: Blender, composer: Composer, layers: Layers) -> Pixels:
        if layers.looks:
            layers = layers.fading(float(self.face.source.info.fps))
        target, region, face = layers.target, layers.region, layers.target.face
        image: Pixels = face.frame.image
        if face.cut:
            blender.reset()
        if target.crop is None or target.landmarks is None or target.wanted is None or not target.strength:
            return image
        if layers.looks:
            pasted = composer.compose(
                image,
                face.matrix,
                target.crop,
                target.landmarks,
                target.wanted,
                layers.looks,
                None if composer.interior is None else target.rest,
                region,
            )
            mask = blender.native_mask(image.shape[:2], face.matrix, target.landmarks, target.wanted)
        elif region is not None:
            generated = region.permute(1, 2, 0).float().cpu().numpy()
            result = blender.paste(image, generated, face.matrix, target.landmarks, target.wanted)
            change = (result.frame.astype(np.float32) - image) * target.strength
            pasted, mask = (image + change).round().astype(np.uint8), result.mask
        else:
            return image
        if self.provenance is not None and face.landmarks is not None:
            seconds, aspect = float(face.frame.time + self.began), float(self.face.source.info.pixel_aspect)
            pasted = mark.embed(pasted, mask, face.landmarks, seconds, target.strength, aspect)
        if target.confidence.front is not None:
            pasted = keep_front(image, pasted, face.matrix, target.confidence.front)
        return pasted

    def _keep(self, number: int, reason: str) -> None:
        """Note that a frame stays the source's, for the report."""
        last = self.kept[-1] if self.kept else None
        if last is not None and last.last == number - 1 and last.reason == reason:
            last.last = number
        else:
            self.kept.append(Kept(number, number, reason))
