"""A video in the making: frames with faces and a motion in, frames with a generated mouth out.

Everything streams. Finding faces, making mouths and pasting run in parallel, each in its own thread, a
bounded number of frames apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moditalker.config import Config
from moditalker.errors import UserError
from moditalker.features.face.confidence import (
    CROP,
    DOUBTFUL,
    Confidence,
    Cover,
    Sight,
    confident,
    lookahead,
)
from moditalker.features.face.cover import load_cover
from moditalker.features.face.identity import REMEMBERED, FaceFrame, anchored
from moditalker.features.face.standing import Standing
from moditalker.geometry.align import transform
from moditalker.geometry.looks import Identity, Look
from moditalker.jobs.machine import half_the_threads, peak_rss
from moditalker.jobs.streams import Clock, ahead, beside
from moditalker.media import QUALITY, Frame, MediaInfo, VideoWriter
from moditalker.media.arriving import ArrivingSound
from moditalker.motion.track import Track
from moditalker.provenance import DEFAULT, Provenance, mark
from moditalker.talker.retarget import Wish
from moditalker.talker.saving import Kept, facts, kept_frames, seconds_of, statement
from moditalker.talker.steps import FaceTrack, Motion, Origin, Progress
from moditalker.video.blend import Blender
from moditalker.video.compose import Composer
from moditalker.video.front import keep_front
from moditalker.video.interior import load_interior
from moditalker.video.references import Chooser, Gallery, Lender, faded
from moditalker.video.stage import VideoStage

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

AHEAD_BYTES = 64 << 20  # of frames that one stage may be ahead of the next
TRUSTED = Confidence()  # of a face about which nothing is known against it
MAKING = 0.15  # seconds that are kept free for putting a frame together and handing it over
FRONTS = 256  # pictures of what is in front of a face that are kept, 64 kB each


@dataclass
class Live:
    """A video that is made while its sound is spoken: a frame that would be shown too late is left out.

    sound: as it is heard; deadline: seconds after the start of a frame's sound by which it must be shown.
    """

    sound: ArrivingSound
    deadline: float
    dropped: int = 0  # frames that were left out

    def late(self, frame: Frame) -> bool:
        """Whether a frame would still be made when its time is over; counts it if so."""
        late = self.sound.heard > float(frame.time) + self.deadline - MAKING
        self.dropped += late
        return late

    def over(self, frame: Frame) -> bool:
        """Whether the sound ends before a frame. Waits for the sound of its beginning."""
        return frame.time >= self.sound.length(frame.time)


@dataclass(frozen=True)
class Target:
    """A frame and what its mouth shall be; landmarks are (68, 3) with x, y in crop pixels."""

    face: FaceFrame
    run: int  # frames of one run are consecutive and share the anchor
    anchor: Identity
    crop: Pixels | None = None  # (size, size, 3) uint8, None where there is no usable face
    landmarks: Array | None = None  # that the source has
    wanted: Array | None = None  # that the speech wants
    confidence: Confidence = TRUSTED

    @property
    def lacks(self) -> str:
        """Why the frame stays the source's; "" where it does not."""
        return self.face.lacks or self.confidence.reason

    @property
    def rest(self) -> Array:
        """The landmarks that a usable face would have with a shut mouth, (68, 3)."""
        rest: Array = transform(self.face.at_rest(self.anchor), self.face.matrix[None])[0]
        return rest

    @property
    def strength(self) -> float:
        """Of what is generated."""
        return self.face.strength * self.confidence.strength


@dataclass(frozen=True)
class Layers:
    """A frame and what its new picture is put together from.

    looks: of the source whose mouths it takes, with weights; region: (3, h, w) that MToV generated. Without
    either, the frame stays the source's.
    """

    target: Target
    looks: Sequence[tuple[Look, float]] = ()
    region: Tensor | None = None


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
    notes: Sequence[str] = ()  # of the sound, for the report
    away: float = 0.0  # seconds: frames of the source nearer in time do not lend their mouths
    live: Live | None = None  # None: every frame is made, however long it takes
    holds: tuple[object, ...] = ()  # temporary files that it is made of
    kept: list[Kept] = field(default_factory=list)  # known once it has been iterated

    def __iter__(self) -> Iterator[tuple[Frame, Pixels]]:
        # Finding faces, making mouths and pasting run in parallel, each in its own thread.
        info = self.face.source.info
        lead = max(1, min(16, AHEAD_BYTES // (3 * info.width * info.height)))
        crop = self.config.crop
        settings = self.config.compose
        painter = load_interior() if settings.enabled and settings.inside == "painter" else None
        rules = self.config.rules
        blender = Blender(crop, float(info.fps), rules.colours, rules.grain)
        composer = Composer(crop, painter)
        self.kept.clear()
        with half_the_threads():
            if self.live is None:
                targets = self._trusted(self._wished(self._seen(lead)))
            else:  # all that no sound is needed for is done before it comes
                targets = self._wished(ahead(self.clock.each("trust", self._trusted(self._seen(lead))), lead))
            made = ahead(self.clock.each("video", self._layers(targets)), lead)
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
                if self.progress is not None:
                    self.progress("generating", number + 1, self.face.expected)

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
            UserError: the file cannot be written, or is one of the inputs; its manifest cannot be signed; the
                quality is out of bounds.
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

    def _seen(self, lead: int = 1) -> Iterator[Target]:
        """Frames with the landmarks that they have."""
        fps, size = float(self.face.source.info.fps), self.config.crop.size
        run, before = 0, False
        faces = self.clock.each("waiting", ahead(self.clock.each("face", self.face), lead))
        for face, anchor in anchored(faces, self.face.anchor, size, lead, fps):
            if face.usable != before or face.cut:
                run += 1
            before = face.usable
            if not face.usable or face.landmarks is None:
                yield Target(face, run, anchor)
                continue
            landmarks = transform(face.landmarks[None], face.matrix[None])[0]
            yield Target(face, run, anchor, face.crop(size), landmarks)

    def _wished(self, targets: Iterator[Target]) -> Iterator[Target]:
        """The same with the landmarks that are wanted in them."""
        if self.motion is None:
            yield from (replace(target, wanted=target.landmarks) for target in targets)
            return
        fps, run = float(self.face.source.info.fps), 0
        said = self.clock.each("motion", self.motion)
        wish = Wish(self.motion, said, fps, self.config.rules.steady)
        for target in targets:
            face = target.face
            if self.live is not None and self.live.over(face.frame):
                return
            wish.advance(float(face.frame.time))
            if target.run != run:
                run = target.run
                wish.forget()
            if target.crop is None:
                yield target
                continue
            posed = wish.posed(face, target.anchor)
            yield replace(target, wanted=transform(posed, face.matrix[None])[0])

    def _trusted(self, targets: Iterator[Target]) -> Iterator[Target]:
        """Targets with how far each frame's face can be trusted."""
        config, info = self.config, self.face.source.info
        # A picture is the user's choice: one that is doubted would give no video at all.
        doubting = config.compose.enabled and config.compose.confidence and info.kind != "picture"
        if not doubting or config.crop.size != CROP:
            yield from targets
            return
        size = info.height, info.width

        def sight(target: Target) -> Sight | None:
            if target.crop is None or target.landmarks is None:
                return None
            face = target.face
            return Sight(target.crop, target.landmarks, face.matrix, size, target.wanted, face.cut)

        cover, fps = _remembering(load_cover().covered), float(info.fps)
        looks = self.face.anchor.looks
        standing = Standing(((look.crop, look.placed) for look in looks), fps)
        for target, confidence in beside(
            targets, lambda items: confident(map(sight, items), cover, fps, standing)
        ):
            yield replace(target, confidence=confidence)

    def _layers(self, targets: Iterator[Target]) -> Iterator[Layers]:
        """What each frame is put together from, run by run."""
        settings, galleries = self.config.compose, dict[int, Gallery]()
        for _, run in groupby(targets, key=lambda target: target.run):
            first = next(run)
            run = chain([first], run)
            if first.crop is None:
                yield from map(Layers, run)
                continue
            if not settings.enabled:
                yield from (Layers(item, (), made) for item, made in self._generated(run, first.anchor))
                continue
            shot = first.face.shot
            if shot not in galleries:
                galleries = {shot: Gallery(first.anchor.looks, len(first.crop), settings.looks)}
            gallery = galleries[shot]
            generate = settings.inside == "mtov" and not gallery.shows_inside
            made = self._generated(run, first.anchor) if generate else zip(run, repeat(None))
            for (target, region), looks in faded(self._chosen(made, gallery)):
                yield Layers(target, looks, region)

    def _chosen(
        self, made: Iterable[tuple[Target, Tensor | None]], gallery: Gallery
    ) -> Iterator[tuple[tuple[Target, Tensor | None], Look]]:
        """Each frame of a run with the look that its mouth comes from."""
        fps = float(self.face.source.info.fps)
        settings = self.config.compose
        chooser = Chooser[tuple[Target, Tensor | None]](settings.change, settings.lag)
        lender = Lender(gallery, fps)
        for target, region in made:
            assert target.crop is not None
            assert target.wanted is not None
            face = target.face
            learnable = target.confidence.learnable and self.face.source.info.kind != "picture"
            lender.offer(learnable, partial(face.look, target.crop, fps))
            cost = gallery.costs(target.wanted, face.scale, face.frame.index / fps, self.away)
            yield from chooser.push((target, region), gallery.looks, cost)
        yield from chooser.finish()

    def _generated(self, run: Iterator[Target], anchor: Identity) -> Iterator[tuple[Target, Tensor]]:
        """Frames of one run with the region that MToV generates for each."""

        def regions(targets: Iterator[Target]) -> Iterator[Tensor]:
            inputs = (
                (target.crop, target.wanted[:, :2], target.landmarks[:, :2])
                for target in targets
                if target.crop is not None and target.wanted is not None and target.landmarks is not None
            )
            yield from self.stage(inputs, anchor, self.seed, self.steps)

        return beside(run, regions)

    def _pasted(self, blender: Blender, composer: Composer, layers: Layers) -> Pixels:
        target, region, face = layers.target, layers.region, layers.target.face
        image: Pixels = face.frame.image
        if face.cut:
            blender.reset()
        if target.crop is None or target.landmarks is None or target.wanted is None or not target.strength:
            return image
        if layers.looks:
            composed = composer.compose(
                image,
                face.matrix,
                target.crop,
                target.landmarks,
                target.wanted,
                layers.looks,
                None if composer.interior is None else target.rest,
                region,
            )
            pasted = composed.frame
            mask = blender.native_mask(image.shape[:2], face.matrix, target.landmarks, target.wanted)
        elif region is not None:
            generated = region.permute(1, 2, 0).float().cpu().numpy()
            result = blender.paste(image, generated, face.matrix, target.landmarks, target.wanted)
            pasted, mask = result.frame, result.mask
        else:
            return image
        if target.strength < 1:
            change = (pasted.astype(np.float32) - image) * target.strength
            pasted = (image + change).round().astype(np.uint8)
        if self.provenance is not None and face.landmarks is not None:
            seconds, aspect = float(face.frame.time), float(self.face.source.info.pixel_aspect)
            pasted = mark.embed(pasted, mask, face.landmarks, seconds, target.strength, aspect)
        if target.confidence.front is not None:
            pasted = keep_front(image, pasted, face.matrix, target.confidence.front)
        return pasted

    def _keep(self, number: int, reason: str) -> None:
        """Note that a frame stays the source's."""
        last = self.kept[-1] if self.kept else None
        if last is not None and last.last == number - 1 and last.reason == reason:
            last.last = number
        else:
            self.kept.append(Kept(number, number, reason))


def _remembering(cover: Cover) -> Cover:
    """The same, which looks once at frames that are shown again and again."""
    known: dict[bytes, Array | None] = {}  # by the landmarks; None: nothing is in front of that face
    fronts = 0

    def covered(crop: Pixels, landmarks: NDArray[np.floating]) -> Array:
        nonlocal fronts
        key = landmarks.tobytes()
        if key in known:
            front = known[key]
            return np.zeros(crop.shape[:2], np.float32) if front is None else front
        front = cover(crop, landmarks)
        free = front.max() <= DOUBTFUL[0]
        if len(known) < REMEMBERED and (free or fronts < FRONTS):
            known[key] = None if free else front
            fronts += not free
        return front

    return covered


def held_frames(config: Config, fps: float, live: bool = False) -> int:
    """How many frames later one a frame's picture may depend on, beside its motion and its tracking.

    live: what no sound is needed for is done before it comes.
    """
    compose, held = config.compose, 0
    if compose.enabled:
        held += compose.lag + 2 + (lookahead(fps) if compose.confidence and not live else 0)
    if not compose.enabled or compose.inside == "mtov":
        held += config.autoencoder.frames
    return held


@dataclass(frozen=True)
class Stream:
    """A video of speech that is still arriving: iterating yields its frames as they are finished, once.

    Each item is (n, H, W, 3) uint8 RGB: the next n frames, as many as one clip of the video stage adds, or
    what is left at the end; with a deadline always one. Where frames are left out or the frame rate varies,
    iterating `video` gives each frame with its time.

    ahead: seconds of sound after the start of a frame that it may depend on.
    """

    video: Video
    ahead: float

    @property
    def info(self) -> MediaInfo:
        """Size, rate and colours of the frames."""
        return self.video.face.source.info

    @property
    def dropped(self) -> int:
        """Frames that were left out up to now because they would have come too late."""
        return 0 if self.video.live is None else self.video.live.dropped

    def __iter__(self) -> Iterator[Pixels]:
        config = self.video.config
        size = config.autoencoder.frames - config.mtov.overlap if self.video.live is None else 1
        images = (image for _, image in self.video)
        while clip := list(islice(images, size)):
            yield np.stack(clip)
