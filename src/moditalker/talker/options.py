"""Options of a video, for Python, the command line, batches and the page."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moditalker.config.limits import BLINKS, sampling
from moditalker.errors import UserError
from moditalker.media import QUALITY, check_codec, check_extend, check_quality, fitted
from moditalker.motion.edit import Style
from moditalker.provenance import DEFAULT, Provenance

if TYPE_CHECKING:
    from moditalker.features.face.tracker import Choice

SILENCES, ORIGINALS = ("keep", "shut"), ("replace", "duck")
DAY = 86_400.0  # s


@dataclass(frozen=True)
class Options:
    """The options of a video. Its face and its sound are given separately.

    seed: the same seed gives the same frames. steps: sampling steps of both diffusion models; None: the
    model's own. extend: what follows the end of a face video that is shorter than the sound: "pingpong"
    (back and forth), "loop", "hold" (its last frame) or "none". choose: which of several faces speaks:
    "largest", "speaker" (in each shot the one who speaks), a number from 0 (the one on the left) or a
    place (x, y) in pixels. style: mouth gain, expression strength, smoothing of the motion. head: how
    the head of a picture moves: "idle", "still", a CSV file of poses, or a video whose head motion is
    copied; a video keeps its own. blink: times a minute that the eyes of a picture blink, 0 to 60.
    audio_track: number of the sound track, from 1; None: the one that players take. provenance: manifest
    and mark; None: neither (docs/provenance.md). quality: x264's constant rate factor for the written
    file, 0 (best) to 40. voice: who says a text; "": a voice that was given, else espeak-ng's; lang: the
    language of a text, such as "en" or "de", in place of a voice. start, end: seconds of the face video
    that are used; end None: to its end. offset: seconds that the speech begins later than the video;
    negative: it begins with a later part. keep_rest: the whole face video is kept, with its other sound
    tracks, subtitles and chapters, and lips change only where the new speech is (`MoDiTalker.dub`).
    silence: between new speech the mouth is the video's own ("keep") or shut ("shut"). original: the
    video's own sound under new speech goes away ("replace") or becomes quieter ("duck"). size: of the
    written pictures, "720p" or "640x480"; "": the source's. codec: "h264", "hevc", "vp9" or "av1".
    pixel_format: "" (8 bits, 4:2:0), "yuv422p", "yuv420p10" or "yuv422p10".

    Raises:
        UserError: a value that cannot be used.
    """

    seed: int = 0
    steps: int | None = None
    extend: str = "pingpong"
    choose: Choice = "largest"
    style: Style = Style()  # noqa: RUF009 (frozen)
    head: str | Path = "idle"
    blink: float = BLINKS
    audio_track: int | None = None
    provenance: Provenance | None = DEFAULT
    quality: float = QUALITY
    voice: str = ""
    lang: str = ""
    start: float = 0.0
    end: float | None = None
    offset: float = 0.0
    keep_rest: bool = False
    silence: str = "keep"
    original: str = "replace"
    size: str = ""
    codec: str = "h264"
    pixel_format: str = ""

    def __post_init__(self) -> None:
        seed, steps = sampling(self.seed, self.steps)
        check_extend(self.extend)
        check_codec(self.codec, self.pixel_format)
        if self.size:
            fitted(self.size, 640, 480)
        for name, taken in (("silence", SILENCES), ("original", ORIGINALS)):
            if getattr(self, name) not in taken:
                raise UserError(f"{name} is {getattr(self, name)!r:.40}; it must be {' or '.join(taken)}")
        end = inf if self.end is None else self.end
        if not (0 <= self.start < end and -DAY <= self.offset <= DAY and self.start <= DAY):
            raise UserError(
                f"start {self.start:g}, end {end:g}, offset {self.offset:g}: seconds are expected, a start "
                "from 0 on, an end after it, all within a day"
            )
        values = {"seed": seed, "steps": steps, "choose": chosen(self.choose)}
        for name, value in (values | {"quality": check_quality(self.quality)}).items():
            object.__setattr__(self, name, value)

    def of_the_file(self) -> dict[str, Any]:
        """Those of the written file, by name, as `Video` has them."""
        names = ("provenance", "quality", "size", "codec", "pixel_format")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, options: Options | None, changes: dict[str, Any]) -> Options:
        """Options (None: the defaults) with changes by name."""
        return replace(options or cls(), **changes)


def chosen(choose: object) -> Choice:
    """A choice of a face with plain types, as `FaceTracker.track` takes it. Raises UserError."""
    if isinstance(choose, str) and choose in ("largest", "speaker"):
        return choose
    try:
        numbers = np.asarray(choose)
    except ValueError:  # lists of unequal lengths
        numbers = np.asarray("")
    if numbers.dtype.kind in "iu" and numbers.ndim == 0 and numbers >= 0:
        return int(numbers)
    if numbers.dtype.kind in "iuf" and numbers.shape == (2,) and np.isfinite(numbers).all():
        return float(numbers[0]), float(numbers[1])
    raise UserError(
        f'no face is called {choose!r}; give "largest", "speaker", a number from 0 or a place (x, y)'
    )


def parse_choice(text: str) -> Choice:
    """largest; speaker; a number from the left; x,y in pixels. Raises UserError."""
    if text in ("largest", "speaker"):
        return chosen(text)
    parts = text.split(",")
    with suppress(ValueError, UserError):
        if len(parts) == 2:
            return chosen([float(part) for part in parts])
        if text.isdigit():
            return int(text)
    raise UserError(
        f"choose {text:.60}: largest, speaker, a number from the left (0, 1, ...), or x,y is expected"
    )
