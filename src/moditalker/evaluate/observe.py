"""Reads a pair of videos for the metrics: decodes them, recodes both alike, tracks and aligns the faces."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from moditalker.config import CropConfig
from moditalker.errors import UserError
from moditalker.evaluate.pairs import Pair
from moditalker.features.face.shape import WEIGHTS, default_model
from moditalker.features.face.tracker import FaceTracker
from moditalker.features.speech.silence import silence
from moditalker.geometry.align import align, transform
from moditalker.geometry.points import MOUTH, eye_distance, lip_opening
from moditalker.geometry.pose import procrustes
from moditalker.geometry.raster import warp
from moditalker.jobs.files import write_whole
from moditalker.media import decoded, encoded, open_source, probe, read_clip
from moditalker.metrics.cpbd import cpbd
from moditalker.metrics.lpips import loaded, to_tensor
from moditalker.metrics.mouth_colour import mouth_colours
from moditalker.metrics.mouth_detail import fine_detail
from moditalker.metrics.sync import Offsets
from moditalker.metrics.sync_expert import Match, load_expert
from moditalker.metrics.syncnet import face_crops, sync
from moditalker.video.blend import Blender

Floats = NDArray[np.floating]

# Every model is measured in the same region, whatever its own crop: the region of this crop.
MEASURED = CropConfig(size=128, region_top=56, pose_rows=72, eye_distance=42.0, eye_row=26.0)
FACE = CropConfig(size=256, region_top=112, pose_rows=144, eye_distance=84.0, eye_row=92.0)  # the whole face

MOUTH_WIDTH = 64  # width of the mouth's crop, pixels of `MEASURED`: one and a half eye distances
MOUTH_SIDES = (64, 256)  # limits of its pixels, else as many as in the video
SPARSE = 5  # slow metrics use one frame in so many
WHOLE, WHOLE_SLOW = 16 << 20, 4 << 20  # most pixels for metrics of whole frames; for slow ones
MAX_BYTES = 1 << 30  # most memory for a video's frames
KEPT_BYTES = 512 << 20  # frames kept for the next pairs
SAME_RATE = 0.01  # share by which frame rates may differ: of a varying rate only the mean is known
SLACK = 0.2  # s: videos whose lengths differ by more do not belong together


@dataclass(frozen=True)
class Observed:
    """A video, or a picture (one frame), and the face in it.

    frames: (S, H, W, 3) uint8; landmarks: (S, 68, 3) pixels, NaN without a face; sound: (N,) float32 at 16
    kHz, empty without any.
    """

    frames: NDArray[np.uint8]
    fps: float
    landmarks: Floats
    sound: NDArray[np.float32]
    picture: bool = False

    @cached_property
    def opening(self) -> Floats:
        """Lip opening over eye distance, (S,)."""
        return lip_opening(self.landmarks)

    @cached_property
    def matrices(self) -> Floats:
        """Frame -> `MEASURED` crop, (S, 2, 3)."""
        return align(self.landmarks, MEASURED, self.fps)

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """(S,) whether a face was found and aligned."""
        known = np.isfinite(self.landmarks).all((1, 2)) & np.isfinite(self.matrices).all((1, 2))
        return np.asarray(known)

    def heard(self) -> NDArray[np.float32]:
        """The sound; UserError if there is none."""
        if not len(self.sound):
            raise UserError("the generated video has no sound")
        return self.sound

    @cached_property
    def rotations(self) -> Floats:
        """Rotations of the head, (S, 3, 3), NaN without a face."""
        rotations = np.full((len(self.landmarks), 3, 3), np.nan)
        if self.seen.any():
            pose = procrustes(self.landmarks[self.seen], default_model().mean, WEIGHTS)
            rotations[self.seen] = pose.rotation
        return rotations

    @cached_property
    def appearance(self) -> Floats:
        """AlexNet's last activation, averaged over the aligned face of 128x128: (frames with one, 256)."""
        at = np.flatnonzero(self.seen)
        network, parts = loaded("alex").features, []
        with torch.no_grad():
            for i in range(0, len(at), 16):
                faces = warp(self.frames[at[i : i + 16]], self.matrices[at[i : i + 16]], MEASURED.size)
                parts.append(network(to_tensor(faces))[-1].mean((2, 3)))
        return np.asarray(torch.cat(parts))

    @cached_property
    def sharpness(self) -> float:
        """CPBD around the face, of every `SPARSE`-th frame."""
        return cpbd(self.close_up(SPARSE))

    @cached_property
    def detail(self) -> Floats:
        """Fine detail of the mouth, (S,), grey levels, NaN without a face."""
        return fine_detail(self.frames, self.landmarks)

    @cached_property
    def colours(self) -> Floats:
        """Colours between the lips, and of the teeth: (S, 2, 3) in CIELAB, NaN if nothing is seen."""
        return mouth_colours(self.frames, self.landmarks)

    def close_up(self, step: int = 1) -> NDArray[np.uint8]:
        """Cut a box twice as wide as the landmarks from each `step`-th frame: (n, h, w, 3)."""
        points = self.landmarks[self.seen, :, :2]
        low, high = points.min(1).mean(0), points.max(1).mean(0)
        middle, side = (low + high) / 2, np.maximum(2 * (high - low), 128)
        start = np.clip(middle - side / 2, 0, None).astype(int)
        end = (middle + side / 2).astype(int)
        return self.frames[::step, start[1] : end[1], start[0] : end[0]]

    def aligned(self, crop: CropConfig, at: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Align the faces of some frames to a crop, (n, size, size, 3)."""
        matrices = align(self.landmarks, crop, self.fps)[at]
        return np.asarray(warp(self.frames[at], matrices, crop.size), np.uint8)


def observe(
    path: Path, tracker: FaceTracker, seconds: float = 30.0, recode: bool = True, picture: bool = False
) -> Observed:
    """Read a video (or, if allowed, a picture), recode it, track the largest face in it.

    seconds: most to read. Raises UserError if it cannot be read, is too large or shows no face.
    """
    return _observe(path, tracker, seconds, recode, picture, None)


def _observe(
    path: Path, tracker: FaceTracker, seconds: float, recode: bool, picture: bool, kept: Path | None
) -> Observed:
    """As `observe`; kept: a cache file to read from or write to."""
    info = probe(path)
    still = info.kind == "picture"
    if still and not picture:
        raise UserError(f"{path}: a picture; a video is needed here")
    count = 1 if still else float(info.fps) * min(seconds, float(info.seconds or seconds))
    size = 3 * info.width * info.height * count
    if size > MAX_BYTES:
        raise UserError(
            f"{path}: {info.width}x{info.height} for {seconds:g} s takes {size / 2**30:.1f} GiB, more than "
            f"{MAX_BYTES / 2**30:g}; measure fewer seconds (--seconds)"
        )
    if kept is not None and not still and kept.exists():
        with np.load(kept, allow_pickle=False) as known:
            frames = decoded(known["video"].tobytes(), (int(known["size"][0]), int(known["size"][1])))
            return Observed(frames, float(known["fps"]), known["landmarks"], known["sound"])
    if still:
        frames, fps, sound = next(iter(open_source(path))).image[None], Fraction(25), np.zeros(0, np.float32)
    else:
        clip = read_clip(path, seconds)
        frames, fps, sound = clip.frames, clip.fps, clip.audio
    coded = encoded(frames, fps) if recode else b""
    if recode:
        frames = decoded(coded, frames.shape[1:3])
    faces = tracker.track(iter(frames), float(fps))
    landmarks = [np.full((68, 3), np.nan, np.float32) if face is None else face.landmarks for face in faces]
    observed = Observed(frames, float(fps), np.stack(landmarks), sound, still)
    if not observed.seen.any():
        raise UserError(f"{path}: no face in {len(frames)} frames; a video of a speaking face is needed")
    if kept is not None and recode and not still:
        file = io.BytesIO()
        video, shape = np.frombuffer(coded, np.uint8), np.array(frames.shape[1:3])
        rate = np.array(observed.fps)
        np.savez(file, video=video, size=shape, fps=rate, landmarks=observed.landmarks, sound=sound)
        write_whole(kept, file.getvalue())
    return observed


def region_of(frames: NDArray[np.generic], matrices: Floats, crop: CropConfig) -> NDArray[np.generic]:
    """Cut the crop from `region_top` down, (n, size - region_top, size, 3), of the frames' dtype.

    frames: (n, H, W, 3); matrices: frame -> crop, (n, 2, 3), as `align` gives them.
    """
    to_region = matrices - np.array([[0, 0, 0], [0, 0, crop.region_top]])
    return warp(frames, to_region, (crop.size - crop.region_top, crop.size))


@dataclass(frozen=True)
class Case:
    """A pair as arrays of equal length; `reference` and `speech` are None if the pair has none.

    face: the clip whose face it is. missing: frames that the generated video lacks (negative: has too many).
    """

    generated: Observed
    reference: Observed | None
    face: Observed | None
    speech: Observed | None
    missing: int = 0

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """(S,) frames that show a face in the generated video and in the face clip."""
        assert self.face is not None
        return self.generated.seen & self.face.seen

    @cached_property
    def mask(self) -> NDArray[np.float32]:
        """(S, H, W) in [0, 1]: the region of paste-back; 0 on frames without a face in both."""
        assert self.face is not None
        count, height, width = self.face.frames.shape[:3]
        masks = np.zeros((count, height, width), np.float32)
        here, there = (transform(one.landmarks, self.face.matrices) for one in (self.face, self.generated))
        blender = Blender(MEASURED, self.face.fps)
        for t in np.flatnonzero(self.usable):
            masks[t] = blender.native_mask((height, width), self.face.matrices[t], here[t], there[t])
        return masks

    def first_mouth(self) -> NDArray[np.uint8]:
        """Make the baseline: the first frame's lower face on every frame, (S, H, W, 3)."""
        assert self.face is not None
        face, frames = self.face, self.face.frames.copy()
        here = transform(face.landmarks, face.matrices)
        first = int(np.flatnonzero(self.usable)[0])
        region = self.region(face, [first])[0] / np.float32(127.5) - 1
        blender = Blender(MEASURED, face.fps)
        for t in np.flatnonzero(self.usable):
            frames[t] = blender.paste(face.frames[t], region, face.matrices[t], here[t], here[first]).frame
        result: NDArray[np.uint8] = frames
        return result

    def region(self, clip: Observed, at: list[int] | NDArray[np.intp]) -> NDArray[np.float32]:
        """Cut the measured region of some frames, (n, 72, 128, 3), aligned as the face clip's."""
        assert self.face is not None
        frames = clip.frames[at].astype(np.float32)
        return np.asarray(region_of(frames, self.face.matrices[at], MEASURED), np.float32)

    def whole(self, most: int, step: int = 1) -> slice:
        """Every `step`-th frame, or fewer, so that together they have about `most` pixels."""
        count, height, width = self.generated.frames.shape[:3]
        return slice(None, None, max(step, math.ceil(count * height * width / most)))

    @cached_property
    def mouth_matrices(self) -> Floats:
        """Frame -> the mouth's surroundings at the video's own size, `mouth_side` pixels wide, (S, 2, 3).

        The face clip's lips are in the middle, and the head is upright; NaN without a face.
        """
        assert self.face is not None
        lips = transform(self.face.landmarks, self.face.matrices)[:, MOUTH, :2].mean(1)
        matrices = np.asarray(self.face.matrices, np.float64).copy()
        matrices[..., 2] -= lips - MOUTH_WIDTH / 2
        scale = self.mouth_side / MOUTH_WIDTH
        result: Floats = matrices * scale + np.array([[0, 0, (scale - 1) / 2]] * 2)
        return result

    @cached_property
    def mouth_side(self) -> int:
        """Width of the mouth's surroundings, one and a half eye distances: the video's, in `MOUTH_SIDES`."""
        assert self.face is not None
        distance = float(np.nanmedian(eye_distance(self.face.landmarks)))
        least, most = MOUTH_SIDES
        return min(max(round(distance * MOUTH_WIDTH / MEASURED.eye_distance), least), most)

    def mouth(self, clip: Observed, at: NDArray[np.intp]) -> NDArray[np.float32]:
        """Cut the mouth's surroundings in some frames, (n, side, side, 3), as `mouth_matrices` place them."""
        frames = clip.frames[at].astype(np.float32)
        return np.asarray(warp(frames, self.mouth_matrices[at], self.mouth_side), np.float32)

    @cached_property
    def unit(self) -> NDArray[np.floating]:
        """Eye distance of the reference's frames, pixels, (S, 1, 1)."""
        assert self.reference is not None
        return eye_distance(self.reference.landmarks)[:, None, None]

    @cached_property
    def offsets(self) -> Offsets:
        """SyncNet's distances of lips and sound in the generated video."""
        made = self.generated
        return sync(face_crops(made.frames, made.landmarks, made.fps), made.heard())

    @cached_property
    def match(self) -> Match:
        """The sync expert's judgement of lips and sound in the generated video."""
        made = self.generated
        return load_expert().match(made.frames, made.landmarks, made.heard(), made.fps)

    @cached_property
    def silent(self) -> NDArray[np.bool_]:
        """(S,) whether a frame of the generated video is well inside a silence of its sound."""
        weights = np.array(list(silence([self.generated.sound])))
        at = (np.arange(len(self.generated.frames)) / self.generated.fps * 25).astype(int)
        return np.array([i < len(weights) and weights[i] == 1 for i in at])


class Observer:
    """Observes videos, and keeps those that are needed again.

    Args:
        seconds, recode: as for `observe`.
        again: files needed again; of the latest, at most `KEPT_BYTES` of frames are kept.
        cache: a folder for observations of these files, shared with other processes.
    """

    def __init__(
        self,
        tracker: FaceTracker,
        seconds: float = 30.0,
        recode: bool = True,
        again: Collection[Path] = (),
        cache: Path | None = None,
    ) -> None:
        self.tracker, self.seconds, self.recode, self.again = tracker, seconds, recode, frozenset(again)
        self.cache = cache
        self.kept: dict[Path, Observed] = {}  # the latest one last

    def look(self, path: Path, picture: bool = False) -> Observed:
        """As `observe`."""
        found = self.kept.pop(path, None)
        if found is None or (found.picture and not picture):
            kept = self._kept(path) if path in self.again else None
            found = _observe(path, self.tracker, self.seconds, self.recode, picture, kept)
        if path in self.again:
            self.kept[path] = found
            while sum(one.frames.nbytes for one in self.kept.values()) > KEPT_BYTES:
                del self.kept[next(iter(self.kept))]
        return found

    def _kept(self, path: Path) -> Path | None:
        """The cache file for the present content of a file."""
        try:
            stat = path.stat()
        except (OSError, ValueError):
            return None
        facts = repr((str(path.absolute()), stat.st_size, stat.st_mtime_ns, self.seconds, self.recode))
        return self.cache and self.cache / f"{hashlib.sha256(facts.encode()).hexdigest()[:24]}.npz"


def build_case(pair: Pair, observer: Observer) -> Case:
    """Read a pair. Raises UserError: unreadable, no face, sizes, rates or lengths that do not match."""
    seen: dict[Path, Observed] = {}

    def look(path: Path | None, picture: bool = False) -> Observed | None:
        if path is not None and path not in seen:
            seen[path] = observer.look(path, picture)
        return None if path is None else seen[path]

    generated = look(pair.generated)
    assert generated is not None
    reference = look(pair.reference)
    face = look(pair.face, picture=True) or reference
    speech = look(pair.speech) or reference
    for path, one in ((pair.reference, reference), (pair.face, face), (pair.speech, speech)):
        if one is not None and not one.picture and abs(one.fps / generated.fps - 1) > SAME_RATE:
            raise UserError(
                f"{path} has {one.fps:g} frames a second, {pair.generated.name} {generated.fps:g}; "
                "give videos of one rate"
            )
    sized = next((one for one in (reference, face) if one is not None and not one.picture), generated)
    height, width = sized.frames.shape[1:3]
    if generated.frames.shape[1:3] == (height + height % 2, width + width % 2):  # as `VideoWriter` pads .mp4
        generated = replace(generated, frames=generated.frames[:, :height, :width])
    for path, one in ((pair.reference, reference), (pair.face, face)):
        if one is not None and not one.picture and one.frames.shape[1:] != generated.frames.shape[1:]:
            raise UserError(
                f"{path} is {one.frames.shape[2]}x{one.frames.shape[1]} pixels, {pair.generated.name} "
                f"{generated.frames.shape[2]}x{generated.frames.shape[1]}; give videos of one size"
            )
    missing = 0 if reference is None else len(reference.frames) - len(generated.frames)
    if reference is not None and abs(missing) > SLACK * generated.fps:
        raise UserError(
            f"{pair.generated}: {len(generated.frames)} frames, {pair.reference} has "
            f"{len(reference.frames)}; they may differ by {SLACK:g} s"
        )
    videos = [one for one in (generated, reference, face, speech) if one is not None and not one.picture]
    frames = min(len(one.frames) for one in videos)
    short = {
        id(one): one
        if len(one.frames) == frames  # keeps its cached properties
        else replace(one, frames=one.frames[:frames], landmarks=one.landmarks[:frames])
        for one in videos
    }
    reference, face, speech = (short.get(id(one), one) for one in (reference, face, speech))
    return Case(short[id(generated)], reference, face, speech, missing)
