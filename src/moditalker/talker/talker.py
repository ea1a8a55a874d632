"""MoDiTalker: the only place where the stages meet. Media -> features -> motion -> video -> media.

Everything streams: a step returns an object that computes its items when it is iterated. So memory does
not grow with length, and the result of a step can be changed before it goes to the next.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moditalker import __version__
from moditalker import config as configuration
from moditalker.config import Config
from moditalker.config.limits import RATE, sampling
from moditalker.errors import UserError
from moditalker.features.face.identity import ANCHOR_FACES, ANCHOR_SECONDS, FaceFrame, Follower
from moditalker.features.face.tracker import FaceTracker
from moditalker.features.portrait.head import Blinks, head_motion
from moditalker.features.portrait.still import Still
from moditalker.features.speech.encoders import FRAME, SpeechEncoder, load_speech_encoder
from moditalker.features.speech.silence import PATIENT, QUICK
from moditalker.jobs.machine import check_device, half_the_threads
from moditalker.jobs.streams import Clock
from moditalker.media import (
    PIXELS,
    SAMPLE_RATE,
    AudioReader,
    Length,
    Part,
    Source,
    VideoReader,
    exact,
    open_source,
    plan_frames,
)
from moditalker.media.arriving import ArrivingSound
from moditalker.media.held import Face, Sound, hold_face, hold_later, hold_sound, hold_text
from moditalker.motion.atom import Atom
from moditalker.motion.edit import Style
from moditalker.motion.sample import waited
from moditalker.motion.stage import MotionStage
from moditalker.motion.track import Track
from moditalker.talker.dub import Film, dubbed
from moditalker.talker.lines import Line
from moditalker.talker.options import Options
from moditalker.talker.settings import carried, joined
from moditalker.talker.steps import FaceTrack, Motion, Origin, Progress, Speech
from moditalker.talker.stream import Stream, held_frames
from moditalker.talker.targets import MAKING, Live
from moditalker.talker.video import Video
from moditalker.video.stage import MissingSampler, VideoSampler, VideoStage, load_sampler
from moditalker.weights.files import fill, load_weights
from moditalker.weights.named import model_folder, sha256

Array = NDArray[np.float32]


SIMILAR = 0.7  # share of the largest size from which on another face may be the one that is meant [ours]


class MoDiTalker:
    """Both stages with their weights.

    Args:
        config: of the weights; each stage's sections come from its own weights.
        speech_encoder, tracker, atom, sampler: the parts.
        name: of the preset, for reports.
        digests: file name -> SHA-256 of the weights, for reports.
    """

    def __init__(
        self,
        config: Config,
        speech_encoder: SpeechEncoder,
        tracker: FaceTracker,
        atom: Atom,
        sampler: VideoStage,
        name: str = "",
        digests: dict[str, str] | None = None,
    ) -> None:
        self.config, self.name, self.digests = config, name or config.preset, digests or {}
        self.speech_encoder, self.tracker, self.atom, self.sampler = speech_encoder, tracker, atom, sampler
        self.motion_stage = MotionStage(atom, config.atom_diffusion, config.rules)
        self.loading_seconds = 0.0

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "tiny",
        device: str = "cpu",
        video: str | Path | None = None,
        motion: str | Path | None = None,
        overrides: Iterable[str] = (),
        **former: Any,
    ) -> MoDiTalker:
        """Load a model in the package by its name, or a folder of weights; both fetch nothing.

        hf://USER/REPO or hf://USER/REPO@REVISION is a model on the Hugging Face Hub (extra `hub`), fetched
        when it is first named.

        A folder without a video stage (mtov.safetensors) makes motion alone.

        Args:
            video: weights of the video stage in place of the model's, as `moditalker adapt` writes them.
            motion: weights of AToM in place of the model's, whatever video stage they were trained with.
            overrides: "section.key=value" each, other than the settings that the weights were trained
                with.

        Raises:
            UserError: no such weights, a damaged file, a device that is not there; weights of another
                part or another crop; settings that change a network.
        """
        given = {"model": model, "video": video, "motion": motion, "overrides": overrides}
        model, video, motion, overrides = _by_former_names(given, former).values()
        begun = time.perf_counter()
        check_device(device)
        folder, overrides = model_folder(model), tuple(overrides)
        pictures = folder / "mtov.safetensors" if video is None else Path(video)
        lips = folder / "atom.safetensors" if motion is None else Path(motion)
        state, description = load_weights(lips)
        config = configuration.from_dict(description["config"])
        if motion is not None:
            config = joined(carried(folder / "atom.safetensors"), config)
        config = configuration.override(config, overrides)
        network = Atom(config.atom, config.speech.width)
        fill(network, state, lips)
        there = video or pictures.exists()
        sampler = load_sampler(pictures, device, overrides) if there else MissingSampler(pictures)
        if isinstance(sampler, VideoSampler):
            if sampler.config.crop != config.crop:
                raise UserError(
                    f"{pictures}: made for {sampler.config.crop}, {folder} for {config.crop}; give weights "
                    "of one crop"
                )
            config = joined(sampler.config, config)
        talker = cls(
            config,
            load_speech_encoder(config.speech, device),
            FaceTracker(),
            network.to(device).eval().requires_grad_(False),
            sampler,
            str(model),
            {path.name: sha256(path) for path in (lips, pictures) if path.exists()},
        )
        talker.loading_seconds = time.perf_counter() - begun
        return talker

    def generate(
        self,
        face: Face,
        audio: Sound | None = None,
        options: Options | None = None,
        *,
        text: str = "",
        motion: Motion | Track | None = None,
        progress: Progress | None = None,
        rate: int = SAMPLE_RATE,
        **changes: Any,
    ) -> Video:
        """Make the face say the audio. Frames are made while the result is saved or iterated.

        Args:
            face: a video or a picture: a path, an array (H, W, 3) uint8 RGB, a picture of PIL, or a file
                that is open as bytes.
            audio: any file with sound: a path, or one that is open as bytes; or floats in [-1, 1], mono,
                in an array (n,) or in chunks of them, `rate` samples a second.
            options: how the video is made; changes: fields of `Options` by name, as in ``seed=1``.
            text: what the face says in place of a sound, by the options' `voice` or `lang`.
            motion: a track to use in place of the audio's own.
            progress: called with a stage's name, frames done and frames expected.

        Raises:
            UserError: a file or a number that cannot be used, no face, too little sound.
        """
        clock, options = Clock(), Options.of(options, changes)
        if options.keep_rest:
            if motion is not None:
                raise UserError("keep_rest: goes without a motion track; give the speech alone")
            return self.dub(face, audio, options, text=text, progress=progress, rate=rate)
        if progress is not None:
            progress("looking for a face", 0, 1)
        with clock.stage("preparing"):
            if (audio is None) == (not text):
                raise UserError("speech is one of two: a sound (audio) or a text; give one of them")
            spoken = options.voice, options.lang, options.seed
            sound = hold_text(text, *spoken) if audio is None else hold_sound(audio, rate)
            number = options.audio_track
            if options.offset:
                sound, number = hold_later(sound.path, number, options.offset), None
            speech = replace(self.speech(sound.path, number), clock=clock)
            track = self.face(face, speech.seconds, options)
        seed, steps = options.seed, options.steps
        said = motion or self.motion(speech, track, seed, steps)
        video = self.video(track, said.styled(options.style), seed, steps)
        notes = speech.sound.notes  # gets more of them while the sound is read
        return replace(
            video,
            audio=sound.path,
            holds=(sound,),
            audio_track=number,
            clock=clock,
            progress=progress,
            **options.of_the_file(),
            notes=notes,
        )

    def dub(
        self,
        film: Face,
        audio: Sound | None = None,
        options: Options | None = None,
        *,
        text: str = "",
        lines: Sequence[Line] = (),
        progress: Progress | None = None,
        rate: int = SAMPLE_RATE,
        **changes: Any,
    ) -> Film:
        """Give a film new speech. Its length, its pictures elsewhere and its other tracks stay.

        Args:
            film: a video.
            audio, text: the new speech, from `options.start` on.
            lines: in place of these, who says what when, as `read_lines` reads it.
            options, changes, progress, rate: as for `generate`.

        Raises:
            UserError: as `generate`; lines that overlap; no line within the film.
        """
        options = Options.of(options, changes)
        sound = None if audio is None else hold_sound(audio, rate)
        return dubbed(self, hold_face(film), sound, text, lines, options, progress)

    def stream(
        self,
        face: Face,
        audio: Iterable[ArrayLike],
        rate: int = SAMPLE_RATE,
        options: Options | None = None,
        *,
        deadline: float | None = None,
        **changes: Any,
    ) -> Stream:
        """Make the face say audio that is still arriving; the frames are those of `generate` for all of it.

        Iterating takes chunks when they are needed, in other threads, and yields frames when clips are
        finished. `Stream.ahead` is how far frames come behind the sound: half a second with preset
        `live`, several seconds with others.

        With a deadline, chunks are taken as they come, and must not come sooner than they are spoken.
        The face is followed before its sound is there, so that its look-ahead costs no time. Frames that
        would be too late are left out (`Stream.dropped`). All stages run once before the sound begins.

        Args:
            audio: chunks (n,) of floats in [-1, 1], mono, of any sizes.
            rate: their samples a second.
            deadline: seconds after the beginning of its sound by which a frame must be there; None: all
                frames are made, however long it takes.
            face, options, changes: as for `generate`.

        Raises:
            UserError: as `generate`; a deadline that these weights cannot keep; while iterating, also
                for a chunk that is no sound.
        """
        clock, options = Clock(), Options.of(options, changes)
        seed, steps, style = options.seed, options.steps, options.style
        sound = ArrivingSound(audio, rate, listening=deadline is not None)
        length = sound.length if deadline is None else _endless
        track = self.face(face, length, options)
        fps = float(track.source.info.fps)
        ahead = self._motion_ahead(style) + held_frames(self.config, fps, deadline is not None) / fps
        if RATE % fps != 0:
            ahead += 2 / RATE  # to read between frames
        live = None
        if deadline is not None:
            if not ahead + MAKING < deadline < float("inf"):
                raise UserError(
                    f"deadline = {deadline:g} s: frames depend on what is heard {ahead:.2f} s later, and "
                    "take time; give more, or take the preset live"
                )
            live = Live(sound, float(deadline))
        said = self.motion(self._speech(sound, sound.length, clock), track, seed, steps)
        video = self.video(track, said.styled(style), seed, steps)
        said_so, quality = options.provenance, options.quality
        video = replace(video, clock=clock, provenance=said_so, quality=quality, live=live)
        if live is not None:
            self._rehearse(video)
        return Stream(video, ahead)

    def _motion_ahead(self, style: Style) -> float:
        """Seconds of sound after the start of a frame of 25 Hz that its motion may depend on."""
        atom, encoder = self.config.atom, self.speech_encoder
        if not atom.causal:
            return encoder.ahead + (atom.frames + style.reach) / RATE
        # Frames come in hops and their features in windows, whose grids meet again and again.
        hop, window = atom.frames - atom.overlap, encoder.core // FRAME
        windows = [
            -(-(start + waited(atom)) // window) * window - start for start in range(0, hop * window, hop)
        ]
        heard = (max(windows) * FRAME + encoder.after + encoder.margin) / SAMPLE_RATE
        return max(heard, (1 + QUICK.frames) / RATE) + style.reach / RATE

    def _rehearse(self, video: Video) -> None:
        """Run all stages once, in silence, so that everything is loaded."""
        sound = ArrivingSound([np.zeros(SAMPLE_RATE // 2, np.float32)])
        said = self.motion(self._speech(sound, sound.length), video.face, video.seed, video.steps)
        live = Live(sound, float("inf"))
        for _ in replace(video, motion=said, live=live, clock=Clock(), kept=[]):
            pass

    def speech(self, audio: str | Path, audio_track: int | None = None) -> Speech:
        """Audio -> speech features at 50 Hz.

        Args:
            audio_track: number of the sound track, from 1; None: the one that players take.

        Raises:
            UserError: no sound in the file, no such track, or too little sound.
        """
        sound = AudioReader(audio, audio_track)
        return self._speech(sound, sound.seconds)

    def _speech(
        self, sound: AudioReader | ArrivingSound, seconds: Length, clock: Clock | None = None
    ) -> Speech:
        ahead = QUICK if self.config.atom.causal else PATIENT
        return Speech(sound, seconds, self.speech_encoder, clock or Clock(), ahead)

    def face(self, face: Face, seconds: Length, options: Options | None = None, **changes: Any) -> FaceTrack:
        """Face video or picture -> frames with landmarks, for `seconds` of speech. Finds the anchor at once.

        Args:
            options, changes: `extend`, `choose`, `head`, `blink`, and `seed` (of idle motion and
                blinks).

        Raises:
            UserError: the file has no picture, or no face in any frame; a head motion that cannot be
                used.
        """
        options = Options.of(options, changes)
        held = hold_face(face)
        source = open_source(held.path, PIXELS.get(options.pixel_format, True))
        if options.start or options.end is not None:
            if not isinstance(source, VideoReader):
                raise UserError(f"{held.path}: a picture has no start and no end; leave them out")
            end = None if options.end is None else exact(options.end)
            source = Part(source, exact(options.start), end)
        return self._found(source, seconds, options, (held,))

    def _found(
        self, source: Source, seconds: Length, options: Options, holds: tuple[object, ...] = ()
    ) -> FaceTrack:
        """`face` for a source that is open."""
        choose, head, seed = options.choose, options.head, options.seed
        face, length = source.info.path, seconds if callable(seconds) else Fraction(seconds)
        still, blinks = source.info.kind == "picture", Blinks(options.blink, seed)
        if not still and head not in ("idle", "still"):
            raise UserError(f"{face}: a video keeps its own head motion; {head} can move a picture's head")
        follower = Follower(self.tracker, self.config.crop, source, choose)
        with half_the_threads():
            anchor = follower.find_anchor()
        if anchor is None and isinstance(choose, int) and 0 < (count := self._count_faces(source)) <= choose:
            raise UserError(
                f"{face}: face {choose} was asked for, and at most {count} can be seen at once; they count "
                "from 0, the one on the left"
            )
        if anchor is None:
            where = "in the picture" if still else "in any of its frames"
            raise UserError(f"{face}: no face was found {where}; give one that shows a face from the front")

        if choose == "largest":
            self._mention_others(source)
        known = None if callable(length) else length
        if not still:
            return FaceTrack(
                source,
                anchor,
                known,
                lambda: follower.follow_again(plan_frames(source, length, options.extend)),
                holds=holds,
            )
        with half_the_threads():
            picture = Still.found(self.tracker, source, "largest" if choose == "speaker" else choose)
            motion = head_motion(head, seed, self.tracker, length)

        def frames() -> Iterator[FaceFrame]:
            planned = plan_frames(source, length)
            return picture.frames(planned, self.config.crop, float(source.info.fps), motion, blinks)

        moved = None if head in ("idle", "still") else Path(head)
        return FaceTrack(source, anchor, known, frames, moved, holds)

    def _mention_others(self, source: Source) -> None:
        """Note if the first frame has another face of nearly the largest one's size."""
        faces = self.tracker.detect(next(iter(source)).image, small=False)
        most = max((face.size for face in faces), default=0.0)
        if (count := sum(face.size >= SIMILAR * most for face in faces)) > 1:
            source.notes.append(
                f"{source.info.path.name}: {count} faces have about the same size; the largest speaks; "
                "--choose takes another."
            )

    def _count_faces(self, source: Source) -> int:
        """How many faces are seen at once, at most; 0 where none is."""
        step = max(1, round(ANCHOR_SECONDS * source.info.fps))
        counts = (len(self.tracker.detect(frame.image)) for frame in islice(source, 0, None, step))
        return max(islice(filter(None, counts), ANCHOR_FACES), default=0)

    def motion(
        self, speech: Iterable[Array], face: FaceTrack, seed: int = 0, steps: int | None = None
    ) -> Motion:
        """Speech features and the face's identity -> frontal landmarks at 25 Hz, by AToM.

        The lips move as far as this person's do in the source (``atom.own_size``). Where nobody speaks
        in a `Speech`, the mouth is shut.

        Raises:
            UserError: seed or steps out of bounds; while iterating, features of another shape.
        """
        seed, steps = sampling(seed, steps)
        width, identity = self.speech_encoder.width, face.anchor

        def blocks() -> Iterator[Array]:
            features, silence = speech.heard() if isinstance(speech, Speech) else (speech, None)
            return self.motion_stage(_features(features, width), identity, seed, steps, silence)

        return Motion(identity.frontal, blocks)

    def track(
        self,
        face: str | Path,
        audio: str | Path,
        options: Options | None = None,
        **changes: Any,
    ) -> Track:
        """The motion that `generate` would give a face, to be changed, saved and given to it as ``motion``.

        Raises:
            UserError: as `generate`.
        """
        options = Options.of(options, changes)
        seed, steps, speech = options.seed, options.steps, self.speech(audio, options.audio_track)
        motion = self.motion(speech, self.face(face, speech.seconds, options), seed, steps)
        made = {
            "version": __version__,
            "preset": self.name,
            "weights_sha256": self.digests,
            "seed": seed,
            "steps": steps,
            "face": Path(face).name,
            "audio": Path(audio).name,
        }
        with half_the_threads():
            return motion.track(made)

    def video(
        self,
        face: FaceTrack,
        motion: Motion | Track | None,
        seed: int = 0,
        steps: int | None = None,
        away: float = 0.0,
    ) -> Video:
        """Frames and landmarks -> frames with a generated mouth, by MToV, pasted back at native size.

        Args:
            motion: None: the face's own landmarks, which reproduce the source video.
            away: seconds. Frames of the source that are nearer than this to a frame lend it no mouth, so
                that a reproduced video shows what new speech would look like.

        Raises:
            UserError: seed or steps out of bounds; an `away` below 0.
        """
        if not 0 <= away < float("inf"):
            raise UserError(f"away = {away}: a number of seconds from 0 is expected")
        origin = Origin(self.name, self.digests, self.loading_seconds)
        video = Video(self.sampler, self.config, origin, face, motion, *sampling(seed, steps))
        return replace(video, away=float(away))


def _endless(until: Fraction) -> Fraction:
    """A length for speech whose end is not known yet."""
    return until + 1


def _features(speech: Iterable[ArrayLike], width: int) -> Iterator[Array]:
    """Blocks of speech features, each (n, width). Raises UserError for another shape."""
    for block in speech:
        features = np.asarray(block, np.float32)
        if features.ndim != 2 or features.shape[1] != width or not np.isfinite(features).all():
            raise UserError(
                f"speech features of shape {features.shape}: finite ones of shape (n, {width}) are expected"
            )
        yield features


FORMER = {"name": "model", "weights": "video", "atom": "motion", "settings": "overrides"}  # in version 0.1


def _by_former_names(given: dict[str, Any], former: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `from_pretrained` by their present names."""
    for name, value in former.items():
        if name not in FORMER:
            raise TypeError(f"from_pretrained() has no argument {name!r}")
        warnings.warn(f"{name}= is now {FORMER[name]}=", DeprecationWarning, stacklevel=3)
        given[FORMER[name]] = value
    return given
