"""The metrics of the report: name, unit, which way is better, inputs, function."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from moditalker.errors import UserError
from moditalker.evaluate.observe import SPARSE, WHOLE, WHOLE_SLOW, Case, Observed
from moditalker.evaluate.sets import SETS
from moditalker.geometry.points import MOUTH
from moditalker.metrics import lips
from moditalker.metrics.background import background_difference
from moditalker.metrics.csim import cosine_similarity, load_embedder
from moditalker.metrics.drift import drift_per_minute
from moditalker.metrics.flicker import flicker
from moditalker.metrics.head_motion import rotation_error
from moditalker.metrics.leakage import partial_correlation
from moditalker.metrics.lmd import landmark_distance
from moditalker.metrics.lpips import lpips
from moditalker.metrics.mouth_colour import ALIKE, OPEN, colour_distance
from moditalker.metrics.mouth_detail import LEAST, detail_ratio
from moditalker.metrics.psnr import psnr
from moditalker.metrics.seam import seam_ratio
from moditalker.metrics.silence import stillness
from moditalker.metrics.ssim import ssim

MOST_LAG = 12  # frames either way
LEAST_SILENCE = 0.3  # least seconds of silence to measure stillness

HIGHER, LOWER, ONE, ZERO = "higher", "lower", "near 1", "near 0"


@dataclass(frozen=True)
class Measure:
    """A column of the report.

    title, unit: as shown; better: higher, lower, near 1 or near 0; needs: parts of a pair: "reference" (the
    real video that it should equal), "face" (the clip whose face it is, as a video), "identity" (the same, or
    a picture), "speech" (the real video of the speech); about: one line; weights: a key of `weights.GIVEN`.
    """

    title: str
    unit: str
    better: str
    needs: tuple[str, ...]
    about: str
    function: Callable[[Case], float]
    weights: str = ""

    def badness(self, value: float) -> float:
        """Turn a value into a badness: larger is worse."""
        if math.isnan(value):
            return -math.inf
        if self.better in (HIGHER, LOWER):
            return -value if self.better == HIGHER else value
        return abs(value) if self.better == ZERO else abs(math.log(max(value, 1e-6)))


def _reference(case: Case) -> Observed:
    assert case.reference is not None
    return case.reference


def _face(case: Case) -> Observed:
    assert case.face is not None
    return case.face


def _speech(case: Case) -> Observed:
    assert case.speech is not None
    return case.speech


def _lpips_region(case: Case) -> float:
    at = np.flatnonzero(case.usable)
    return lpips(case.region(case.generated, at), case.region(_reference(case), at))


def _frames(case: Case, function: Callable[..., float], most: int = WHOLE, step: int = 1) -> float:
    """A metric of whole frames, over some of them."""
    at = case.whole(most, step)
    return function(case.generated.frames[at], _reference(case).frames[at])


def _background(case: Case) -> float:
    at = case.whole(WHOLE)
    return background_difference(case.generated.frames[at], _face(case).frames[at], case.mask[at])


def _lpips_mouth(case: Case) -> float:
    at = np.flatnonzero(case.usable)[::SPARSE]
    return lpips(case.mouth(case.generated, at), case.mouth(_reference(case), at))


def _mouth_detail(case: Case) -> float:
    ratio = detail_ratio(case.generated.detail, _face(case).detail)
    if math.isnan(ratio):
        raise UserError(
            f"the face's own mouth has less than {LEAST:g} grey levels of detail finer than a crop of "
            "128 pixels holds"
        )
    return ratio


def _mouth_colour(case: Case, part: int) -> float:
    """part: 0 for all between the lips, 1 for the teeth."""
    made, face = case.generated, _face(case)
    distance = colour_distance(made.colours[:, part], made.opening, face.colours[:, part], face.opening)
    if math.isnan(distance):
        raise UserError(
            f"no generated mouth that is open (by {OPEN:g} eye distances) has a real one to compare with, "
            f"open as far (within {ALIKE:.0%})"
        )
    return distance


def _mouth_distance(case: Case, unit: NDArray[np.floating] | float) -> float:
    made, real = (one.landmarks[:, MOUTH, :2] / unit for one in (case.generated, _reference(case)))
    return landmark_distance(made, real)


def _face_distance(case: Case, unit: NDArray[np.floating] | float) -> float:
    made, real = (one.landmarks[..., :2] / unit for one in (case.generated, _reference(case)))
    return landmark_distance(made, real)


def _silence(case: Case) -> float:
    if not len(case.generated.sound):
        raise UserError("the generated video has no sound")
    if case.silent.sum() < LEAST_SILENCE * case.generated.fps:
        raise UserError(f"less than {LEAST_SILENCE:g} s of silence")
    spoken = next(one for one in (case.speech, case.face) if one is not None and not one.picture)
    return stillness(case.generated.opening[case.silent], spoken.opening)


def _drift(case: Case) -> float:
    """The region's mean colour relative to the face clip's."""
    made, face, colours = case.generated.frames, _face(case).frames, np.full((len(case.mask), 3), np.nan)
    for t, mask in enumerate(case.mask):
        if (inside := mask > 0.5).any():
            colours[t] = made[t][inside].mean(0) - face[t][inside].mean(0)
    return drift_per_minute(colours, case.generated.fps)


def _leakage(case: Case) -> float:
    if case.speech is case.face:
        raise UserError("the speech is the face clip's own")
    return partial_correlation(case.generated.opening, _face(case).opening, _speech(case).opening)


def _csim(case: Case) -> float:
    """Compares the same moments, since a turn of the head changes an embedding; a picture has only one."""
    embedder, face = load_embedder(), _face(case)
    seen = case.generated.seen if face.picture else case.usable
    at = np.flatnonzero(seen)[::SPARSE]
    made = embedder.embed(case.generated.aligned(embedder.crop, at))
    own = embedder.embed(face.aligned(embedder.crop, np.array([0]) if face.picture else at))
    return cosine_similarity(made, own)


PAIR, FACE, ANY_FACE, SPEECH = ("reference",), ("face",), ("identity",), ("speech",)

MEASURES: dict[str, Measure] = {
    "lip_correlation": Measure(
        *("lip correlation", "", HIGHER, SPEECH, "Pearson correlation of lip opening with the real video's"),
        lambda c: lips.correlation(c.generated.opening, _speech(c).opening),
    ),
    "lip_lag": Measure(
        *(
            "lip lag",
            "frames",
            ZERO,
            SPEECH,
            "shift at which lip opening correlates best; positive: lips late",
        ),
        lambda c: lips.best_lag(c.generated.opening, _speech(c).opening, MOST_LAG)[0],
    ),
    "lip_correlation_at_lag": Measure(
        *("lip correlation at lag", "", HIGHER, SPEECH, "the correlation at that shift"),
        lambda c: lips.best_lag(c.generated.opening, _speech(c).opening, MOST_LAG)[1],
    ),
    "lip_amplitude": Measure(
        *("lip amplitude", "ratio", ONE, SPEECH, "range of lip opening over the real video's"),
        lambda c: lips.amplitude_ratio(c.generated.opening, _speech(c).opening),
    ),
    "lse_d": Measure(
        *("LSE-D", "", LOWER, (), "SyncNet's distance of lips and sound"),
        lambda c: c.offsets.distance,
        "syncnet",
    ),
    "lse_c": Measure(
        *("LSE-C", "", HIGHER, (), "SyncNet's confidence"),
        lambda c: c.offsets.confidence,
        "syncnet",
    ),
    "sync_offset": Measure(
        *("offset", "frames of 1/25 s", ZERO, (), "by which the lips come late, as SyncNet hears it"),
        lambda c: c.offsets.offset,
        "syncnet",
    ),
    "match": Measure(
        *("mouth-audio match", "", HIGHER, (), "0 to 1, the package's own judge of mouth and sound, not LSE"),
        lambda c: c.match.match,
    ),
    "match_offset": Measure(
        *("mouth-audio offset", "frames of 1/25 s", ZERO, (), "by which the lips come late, as it hears it"),
        lambda c: c.match.offset,
    ),
    "match_contrast": Measure(
        *("mouth-audio contrast", "", HIGHER, (), "likeness as timed over that at other offsets; same judge"),
        lambda c: c.match.contrast,
    ),
    "leakage": Measure(
        *(
            "leakage",
            "",
            ZERO,
            ("face", "speech"),
            "partial correlation with the face clip's lips, given the speech's",
        ),
        _leakage,
    ),
    "silence": Measure(
        *("silence", "ratio", LOWER, (), "range of lip opening in silence over that of speech"),
        _silence,
    ),
    "lmd_mouth_px": Measure(
        *("LMD mouth", "px", LOWER, PAIR, "distance of the 20 mouth points, in the video's pixels"),
        lambda c: _mouth_distance(c, 1.0),
    ),
    "lmd_mouth": Measure(
        *("LMD mouth", "eye distances", LOWER, PAIR, "the same over the distance of the eye centres"),
        lambda c: _mouth_distance(c, c.unit),
    ),
    "lmd_face_px": Measure(
        *("LMD face", "px", LOWER, PAIR, "distance of all 68 points, in the video's pixels"),
        lambda c: _face_distance(c, 1.0),
    ),
    "lmd_face": Measure(
        *("LMD face", "eye distances", LOWER, PAIR, "the same over the distance of the eye centres"),
        lambda c: _face_distance(c, c.unit),
    ),
    "psnr": Measure(
        *("PSNR", "dB", HIGHER, PAIR, "over the generated region"),
        lambda c: psnr(c.generated.frames, _reference(c).frames, c.mask),
    ),
    "psnr_first_mouth": Measure(
        *("PSNR, first mouth", "dB", HIGHER, PAIR, "baseline: the first frame's mouth pasted on every frame"),
        lambda c: psnr(c.first_mouth(), _reference(c).frames, c.mask),
    ),
    "ssim": Measure(
        *("SSIM", "", HIGHER, PAIR, "over the generated region"),
        lambda c: ssim(c.generated.frames, _reference(c).frames, c.mask),
    ),
    "lpips": Measure(
        *("LPIPS", "", LOWER, PAIR, "AlexNet, over the aligned lower face, 128x72"),
        _lpips_region,
        "lpips-alex",
    ),
    "lpips_mouth": Measure(
        *("LPIPS, mouth", "", LOWER, PAIR, f"AlexNet, over the mouth at native size, every {SPARSE}th frame"),
        _lpips_mouth,
        "lpips-alex",
    ),
    "psnr_frame": Measure(
        *("PSNR, frame", "dB", HIGHER, PAIR, "over the whole frame"),
        lambda c: _frames(c, psnr),
    ),
    "ssim_frame": Measure(
        *("SSIM, frame", "", HIGHER, PAIR, f"over the whole frame, every {SPARSE}th"),
        lambda c: _frames(c, ssim, WHOLE_SLOW, SPARSE),
    ),
    "lpips_frame": Measure(
        *("LPIPS, frame", "", LOWER, PAIR, f"AlexNet, over the whole frame, every {SPARSE}th"),
        lambda c: _frames(c, partial(lpips, batch=4), WHOLE_SLOW, SPARSE),
        "lpips-alex",
    ),
    "csim": Measure(
        *("CSIM", "", HIGHER, ANY_FACE, f"cosine with the face's embedding, every {SPARSE}th frame"),
        _csim,
        "face-embedding",
    ),
    "mouth_detail": Measure(
        *("mouth detail", "ratio", ONE, ANY_FACE, "fine detail of the mouth at native size over the face's"),
        _mouth_detail,
    ),
    "mouth_colour": Measure(
        *("mouth colour", "ΔE", LOWER, ANY_FACE, "between the lips, from the face's own mouths as far open"),
        lambda c: _mouth_colour(c, 0),
    ),
    "teeth_colour": Measure(
        *("teeth colour", "ΔE", LOWER, ANY_FACE, "the same of the brightest quarter, where teeth show"),
        lambda c: _mouth_colour(c, 1),
    ),
    "cpbd": Measure(
        *("CPBD", "", HIGHER, (), f"sharpness around the face, every {SPARSE}th frame"),
        lambda c: c.generated.sharpness,
    ),
    "cpbd_ratio": Measure(
        *("CPBD ratio", "ratio", ONE, FACE, "the same over the face clip's"),
        lambda c: c.generated.sharpness / max(_face(c).sharpness, 1e-6),
    ),
    "seam": Measure(
        *("seam", "ratio", LOWER, FACE, "edges along the region's border over the face clip's there"),
        lambda c: seam_ratio(c.generated.frames, _face(c).frames, c.mask),
    ),
    "flicker": Measure(
        *("flicker", "ratio", LOWER, FACE, "quivering of the region over the face clip's there"),
        lambda c: flicker(c.generated.frames, c.mask) / max(flicker(_face(c).frames, c.mask), 1e-6),
    ),
    "background": Measure(
        *("background", "grey levels", LOWER, FACE, "mean difference from the face clip outside the region"),
        _background,
    ),
    "drift": Measure(
        *(
            "drift",
            "grey levels a minute",
            LOWER,
            FACE,
            "slope of the region's colour against the face clip's",
        ),
        _drift,
    ),
    "head_motion": Measure(
        *("head motion", "degrees", LOWER, FACE, "mean angle between the head and the face clip's"),
        lambda c: rotation_error(c.generated.rotations, _face(c).rotations),
    ),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "lips": tuple(key for key in MEASURES if key.startswith("lip_") or key in ("leakage", "silence")),
    "sync": ("lse_d", "lse_c", "sync_offset", "match", "match_offset", "match_contrast"),
    "picture": (
        "psnr",
        "psnr_first_mouth",
        "ssim",
        "lpips",
        "lpips_mouth",
        "psnr_frame",
        "ssim_frame",
        "lpips_frame",
    ),
    "landmarks": ("lmd_mouth_px", "lmd_mouth", "lmd_face_px", "lmd_face"),
    "mouth": ("mouth_detail", "mouth_colour", "teeth_colour"),
    "seen": ("csim", "cpbd", "cpbd_ratio", "seam", "flicker", "background", "drift", "head_motion"),
}

NEEDS = {
    "reference": "the pair has no reference",
    "face": "the pair has no face clip",
    "identity": "the pair has no face",
    "speech": "the pair has no video of the speech",
}


def choose(wanted: str, known: Collection[str] = (*MEASURES, *SETS)) -> list[str]:
    """Choose names from a list with commas; a group's name means all of it, "all" everything."""
    chosen: list[str] = []
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        if name == "all":
            chosen += known
        elif name in known:
            chosen.append(name)
        elif name in GROUPS:
            chosen += GROUPS[name]
        else:
            raise UserError(
                f"--metrics {name}: not known; there are {', '.join(known)}, the groups {', '.join(GROUPS)}, "
                "and all"
            )
    if not chosen:
        raise UserError("--metrics: name at least one metric, or all")
    return list(dict.fromkeys(chosen))


def lacking(case: Case, measure: Measure) -> str:
    """Say what a pair lacks for a measure; "" if nothing."""
    for need in measure.needs:
        one = getattr(case, "face" if need == "identity" else need)
        if one is None:
            return NEEDS[need]
        if need != "identity" and one.picture:
            return "the face is a picture"
        if need == "face" and not case.usable.any():
            return "no frame shows a face in both videos"
    return ""


def measure(case: Case, names: list[str]) -> tuple[dict[str, float | None], dict[str, str]]:
    """Measure a pair: its figures, and the reason for each that is None."""
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name in names:
        values[name] = None
        if reason := lacking(case, MEASURES[name]):
            reasons[name] = reason
            continue
        try:
            value = float(MEASURES[name].function(case))
        except (UserError, ValueError) as error:
            reasons[name] = str(error)
            continue
        if math.isnan(value):
            reasons[name] = "nothing to measure it on"
        else:
            values[name] = value
    return values, reasons
