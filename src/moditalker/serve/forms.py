"""Requests and answers of the HTTP interface as models, of which the OpenAPI description is made."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moditalker.config.limits import BOUNDS
from moditalker.errors import UserError
from moditalker.media import QUALITY
from moditalker.media.writing import WORST
from moditalker.motion.edit import MAX_GAIN, MAX_SMOOTHING, Style
from moditalker.provenance import CONSENT, Provenance
from moditalker.talker.options import Options, parse_choice

State = Literal["waiting", "running", "made", "failed", "cancelled"]
ID = r"^[\w.-]{1,40}$"
(_LEAST_SEED, _MOST_SEED), (_LEAST_STEPS, _MOST_STEPS) = BOUNDS["seed"], BOUNDS["steps"]


class VideoOptions(BaseModel):
    """Fields of `Options` that jobs and live sessions have."""

    model_config = ConfigDict(extra="forbid")

    choose: str = Field(
        default="largest", max_length=40, description="Who speaks: largest, speaker, 0, 1, ... or x,y."
    )
    mouth_gain: float = Field(
        default=1.0, ge=0, le=MAX_GAIN, description="How far the lips part; 1 is as spoken."
    )
    expression: float = Field(
        default=1.0, ge=0, le=MAX_GAIN, description="How much the corners of the mouth do."
    )
    smoothing: float = Field(
        default=0.0, ge=0, le=MAX_SMOOTHING, description="Softness of the motion, in seconds."
    )
    head: Literal["idle", "still"] = Field(default="idle", description="How the head of a picture moves.")
    blink: float = Field(default=Options().blink, ge=0, le=60, description="Blinks of a picture in a minute.")
    seed: int = Field(
        default=0, ge=_LEAST_SEED, le=_MOST_SEED, description="The same seed gives the same frames."
    )
    steps: int | None = Field(default=None, ge=_LEAST_STEPS, le=_MOST_STEPS, description="Sampling steps.")

    def options(self) -> Options:
        """The same as `Options`. Raises UserError."""
        return Options(
            seed=self.seed,
            steps=self.steps,
            choose=parse_choice(self.choose),
            style=Style(self.mouth_gain, self.expression, self.smoothing),
            head=self.head,
            blink=self.blink,
        )


class JobRequest(VideoOptions):
    """A job: a face, speech as a sound or a text, and options. Files are sent, or named by their ids."""

    face: str = Field(pattern=ID, description="A picture or a video: a file, or the id of one.")
    audio: str | None = Field(default=None, pattern=ID, description="Speech: a file, or the id of one.")
    text: str = Field(default="", description="What is said, in place of a sound.")
    voice: str = Field(
        default="", max_length=40, description="Who says the text: one of the voices of GET /service."
    )
    lang: str = Field(
        default="", max_length=10, description="The language of the text, such as en, in place of a voice."
    )
    model: str = Field(default="", max_length=100, description="One of the models that GET /service names.")
    head_file: str | None = Field(
        default=None,
        pattern=ID,
        description="A .csv of poses, or a video whose head motion a picture copies.",
    )
    extend: Literal["pingpong", "loop", "hold", "none"] = Field(
        default="pingpong", description="What follows the end of a video that is shorter than the speech."
    )
    audio_track: int | None = Field(
        default=None, ge=1, le=99, description="Which sound track speaks, from 1."
    )
    quality: float = Field(
        default=QUALITY, ge=0, le=WORST, description="x264's constant rate factor; 0 is best."
    )
    consent: str = Field(default="", max_length=CONSENT, description="Who agreed to this video.")
    compare: bool = Field(default=False, description="Also give the source as a video that browsers play.")

    def options(self) -> Options:
        if (self.audio is None) == (not self.text.strip()):
            raise UserError("speech is one of two: a sound (audio) or a text; give one of them")
        provenance = Provenance(self.consent.strip() or None)
        return Options.of(
            super().options(),
            {
                "extend": self.extend,
                "audio_track": self.audio_track,
                "quality": self.quality,
                "provenance": provenance,
                "lang": self.lang,
            },
        )


class Job(BaseModel):
    """The present state of a job.

    before: number of jobs that are done before it. stage: "face", "speech" or "video"; done, total: its
    steps; seconds_left: until the stage ends. Times are seconds since 1970.
    """

    id: str
    state: State
    before: int = 0
    stage: str = ""
    done: int = 0
    total: int = 1
    seconds_left: float | None = None
    error: str = ""
    created: float
    began: float | None = None
    ended: float | None = None
    face: str
    compare: bool = False
    seed: int = 0


class Face(BaseModel):
    """A face file. faces: boxes (x0, y0, x1, y1) in pixels, from left to right; second: of GET .../picture.

    still: it is a picture, no video. largest: index of the face that speaks unless another is chosen.
    """

    id: str
    name: str
    width: int
    height: int
    faces: list[tuple[float, float, float, float]]
    second: float
    still: bool
    largest: int


class Sound(BaseModel):
    """A sound file."""

    id: str
    name: str
    seconds: float


class Problem(BaseModel):
    """An error: one sentence with the value, the rule and the way out."""

    error: str


def validated(model: type[Any], fields: dict[str, Any]) -> Any:
    """A model of the fields of a form or query. Raises UserError."""
    try:
        return model.model_validate(fields)
    except ValidationError as invalid:
        fault = invalid.errors(include_url=False)[0]
        name = ".".join(map(str, fault["loc"])) or "the request"
        if fault["type"] == "missing":
            raise UserError(f"{name}: is missing; give it (GET /openapi.json lists all fields)") from invalid
        if fault["type"] == "extra_forbidden":
            raise UserError(f"{name[:40]}: is no field; GET /openapi.json lists all fields") from invalid
        rule = fault["msg"][:1].lower() + fault["msg"][1:]
        raise UserError(f"{name} {str(fault['input'])[:60]!r}: {rule}; change it") from invalid
