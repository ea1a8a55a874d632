"""`moditalker generate`."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moditalker.cli.common import (
    FACE,
    FILE,
    MAKE,
    MOTION,
    SPEECH,
    AudioTrack,
    Blink,
    Certificate,
    Choose,
    Codec,
    Coded,
    Consent,
    Device,
    End,
    Expression,
    Extend,
    Extended,
    Format,
    Head,
    Key,
    Lang,
    Lossless,
    Model,
    MouthGain,
    NoProvenance,
    Offset,
    On,
    OtherSeed,
    PixelFormat,
    Quality,
    Report,
    Size,
    Smoothing,
    Start,
    Steps,
    VideoWeights,
    Voice,
    app,
    check_output,
    parse_choice,
    parse_provenance,
    progress_bar,
    report_video,
)
from moditalker.errors import UserError
from moditalker.jobs.files import shortened
from moditalker.weights.named import PORTRAIT, SENTENCE

if TYPE_CHECKING:
    from moditalker.talker.talker import MoDiTalker

DEMO = Path("moditalker-demo.mp4")
TALKING = "-talking.mp4"  # the end of a name that was not chosen


@app.command(rich_help_panel=MAKE)
def generate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FACE] [AUDIO]",
            show_default=False,
            help="The face and the audio; the same as --face and --audio.",
        ),
    ] = None,
    face: Annotated[
        Path | None,
        typer.Option(help="A video (head and upper face are kept) or a picture.", rich_help_panel=FACE),
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(help="Any file with sound, also a video.", rich_help_panel=SPEECH)
    ] = None,
    text: Annotated[
        str, typer.Option(help="What the face says, in place of an audio.", rich_help_panel=SPEECH)
    ] = "",
    voice: Voice = "",
    lang: Lang = "",
    start: Start = 0.0,
    end: End = None,
    offset: Offset = 0.0,
    keep_rest: Annotated[
        bool,
        typer.Option(
            "--keep-rest",
            help="Keep the whole face video with all its tracks; lips change only where the new speech is.",
            rich_help_panel=FACE,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The video to write; the container follows the name. Default: the face's name and "
            "-talking.mp4, in this folder, with a number where there is such a file.",
            rich_help_panel=FILE,
        ),
    ] = None,
    motion: Annotated[
        Path | None,
        typer.Option(
            help="A track of `moditalker motion`: the face moves by it, and the audio is heard.",
            rich_help_panel=MOTION,
        ),
    ] = None,
    model: Model = "tiny",
    weights: VideoWeights = None,
    seed: OtherSeed = None,
    steps: Steps = None,
    quality: Quality = 20.0,
    lossless: Lossless = False,
    size: Size = "",
    codec: Coded = Codec.h264,
    pixel_format: Format = PixelFormat.yuv420p,
    report: Report = None,
    device: On = Device.cpu,
    extend: Extended = Extend.pingpong,
    choose: Choose = "largest",
    audio_track: AudioTrack = None,
    head: Head = "idle",
    blink: Blink = 15.0,
    mouth_gain: MouthGain = 1.0,
    expression: Expression = 1.0,
    smoothing: Smoothing = 0.0,
    no_provenance: NoProvenance = False,
    consent: Consent = None,
    certificate: Certificate = None,
    key: Key = None,
) -> dict[str, Any]:
    """Make the face say the audio. Without files, a portrait says a sentence as a demo.

    The video has the face video's frames, frame rate and size for as long as the audio lasts. A picture
    becomes 25 frames a second. Frames without a usable face stay unchanged.

    Example: moditalker generate person.mp4 speech.wav --out talking.mp4
    """
    from moditalker.motion.edit import Style
    from moditalker.motion.track import Track
    from moditalker.talker.options import Options

    face, audio = sorted_out(files or [], face, audio)
    demo = False
    if audio is not None and text:
        raise UserError("--text: goes without an audio; give one of the two")
    if (voice or lang) and not text:
        raise UserError("--voice and --lang: go with --text; they choose who says it")
    if face is None and audio is None and motion is None and not text:
        face, audio, out, demo = PORTRAIT, SENTENCE, out or free(DEMO), True
    if face is None or (audio is None and not text):
        missing = "face" if face is None else "audio"
        raise UserError(f"--{missing}: is missing; give a face and an audio or --text, or no file for a demo")
    out = out or free(Path(shortened(face.stem, len(TALKING) + 8, face.name) + TALKING))
    track = None if motion is None else Track.load(motion)
    options = Options(
        seed=seed if seed is not None else 0 if track is None else track.seed,
        steps=steps or (None if track is None else track.steps),
        extend=extend.value,
        choose=parse_choice(choose),
        style=Style(mouth_gain, expression, smoothing),
        head=head,
        blink=blink,
        audio_track=audio_track,
        provenance=parse_provenance(no_provenance, consent, certificate, key),
        quality=quality,
        size=size,
        codec=codec.value,
        pixel_format="" if pixel_format == PixelFormat.yuv420p else pixel_format.value,
        voice=voice,
        lang=lang,
        start=start,
        end=end,
        offset=offset,
        keep_rest=keep_rest,
    )
    inputs = (face, audio, weights, motion, Path(head), certificate, key, *Path(model).glob("*.safetensors"))
    check_output("--out", out, inputs)
    check_output("--report", report, (out, *inputs))
    with progress_bar() as show:
        talker = loaded(model, device.value, weights)
        result = talker.generate(face, audio, options, text=text, motion=track, progress=show).save(
            out, lossless=lossless
        )
    report_video(out, result, report)
    if demo:
        print("next, with files of yours: moditalker generate person.mp4 speech.wav", file=sys.stderr)
    return result


def sorted_out(files: list[Path], face: Path | None, audio: Path | None) -> tuple[Path | None, Path | None]:
    """Face and audio: files without an option fill what the options left out. Raises UserError."""
    left = iter(files)
    face = next(left, None) if face is None else face
    audio = next(left, None) if audio is None else audio
    if (more := next(left, None)) is not None:
        raise UserError(f"{more}: is one file too many; give one face and one audio")
    return face, audio


def free(path: Path) -> Path:
    """The path, or the first with a number from 2 that no file has."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return next(one for one in chain([path], numbered) if not os.path.lexists(one))


@lru_cache(maxsize=1)
def loaded(model: str, device: str, weights: Path | None = None) -> MoDiTalker:
    """The weights, loaded once in a process."""
    from moditalker.talker.talker import MoDiTalker

    return MoDiTalker.from_pretrained(model, device, weights)
