"""`moditalker motion`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moditalker.cli.common import (
    MAKE,
    AudioTrack,
    Choose,
    Device,
    Expression,
    Model,
    MouthGain,
    On,
    Seed,
    Smoothing,
    Steps,
    app,
    check_output,
    parse_choice,
)
from moditalker.errors import UserError

if TYPE_CHECKING:
    from moditalker.motion.track import Track

_NUMBER = r"(\d{1,5}(?:\.\d{1,6})?)"


@app.command(rich_help_panel=MAKE)
def motion(
    context: typer.Context,
    face: Annotated[Path | None, typer.Option(help="Video or picture whose face the motion is for.")] = None,
    audio: Annotated[Path | None, typer.Option(help="The speech; also the sound of --preview.")] = None,
    track: Annotated[
        Path | None, typer.Option(help="A track to change, in place of --face and --audio.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The track to write, JSON.")] = None,
    preview: Annotated[Path | None, typer.Option(help="Draw the landmarks as a video.")] = None,
    splice: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACK@T", help="Another track from second T on. This and the next three may be repeated."
        ),
    ] = None,
    retime: Annotated[
        list[str] | None,
        typer.Option(metavar="A-B=SECONDS", help="Stretch the part from second A to B to SECONDS."),
    ] = None,
    hold: Annotated[
        list[str] | None, typer.Option(metavar="A-B", help="Hold the face of second A until B.")
    ] = None,
    shut: Annotated[
        list[str] | None, typer.Option(metavar="A-B", help="Shut the mouth from second A to B.")
    ] = None,
    mouth_gain: MouthGain = 1.0,
    expression: Expression = 1.0,
    smoothing: Smoothing = 0.0,
    model: Model = "tiny",
    seed: Seed = 0,
    steps: Steps = None,
    device: On = Device.cpu,
    choose: Choose = "largest",
    audio_track: AudioTrack = None,
) -> None:
    """Write the landmark motion of a speech to a file, or change one; `generate --motion` renders it.

    Changes are made in this order: splice, retime, hold, shut, then gains and smoothing.

    Example: moditalker motion --face person.mp4 --audio speech.wav --out track.json --preview track.mp4
    """
    from moditalker.motion.edit import Style
    from moditalker.motion.track import Track

    if out is None and preview is None:
        raise UserError("nothing to write: give --out, --preview or both")
    style = Style(mouth_gain, expression, smoothing)
    others = (_numbers("splice", text)[0] for text in splice or [])
    inputs = (face, audio, *map(Path, others))
    check_output("--out", out, inputs)  # which may be --track: it is read before, and written as a whole
    check_output("--preview", preview, (out, track, *inputs))
    if track is not None:
        _check_unused(context, () if preview else ("audio",))
        made = Track.load(track)
    elif face is None or audio is None:
        raise UserError("--face and --audio are needed, or --track with a track to change")
    else:
        from moditalker.talker.options import Options
        from moditalker.talker.talker import MoDiTalker

        talker = MoDiTalker.from_pretrained(model, device=device.value)
        options = Options(seed, steps, choose=parse_choice(choose), audio_track=audio_track)
        made = talker.track(face, audio, options)
    made = _changed(made, splice or [], retime or [], hold or [], shut or [])
    if style != Style():
        made = made.styled(style)
    if out is not None:
        made.save(out)
        print(f"{out}: {len(made.landmarks)} frames, {made.seconds:.2f} s")
    if preview is not None:
        from moditalker.motion.preview import save_preview

        save_preview(made, preview, audio, audio_track)
        print(f"{preview}: the landmarks of {made.seconds:.2f} s")


def _check_unused(context: typer.Context, more: tuple[str, ...]) -> None:
    """Raise UserError if an option was given that does not go with --track; more: names of others."""
    for name in ("face", *more, "seed", "steps", "model", "choose", "device"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(
                f"--track and --{name}: give a track to change, or a face and speech to make one of"
            )


def _changed(track: Track, splice: list[str], retime: list[str], hold: list[str], shut: list[str]) -> Track:
    for text in splice:
        path, at = _numbers("splice", text)
        track = track.splice(type(track).load(path), float(at))
    for text in retime:
        start, end, seconds = _numbers("retime", text)
        track = track.retime(float(start), float(end), float(seconds))
    for name, method, texts in (("hold", type(track).hold, hold), ("shut", type(track).shut, shut)):
        for text in texts:
            start, end = _numbers(name, text)
            track = method(track, float(start), float(end))
    return track


def _numbers(option: str, text: str) -> tuple[str, ...]:
    pattern, form, example = _FORMS[option]
    found = re.fullmatch(pattern, text)
    if found is None:
        raise UserError(f"--{option} {text}: {form} is expected, in seconds, as in {example}")
    return found.groups()


_SPAN = f"{_NUMBER}-{_NUMBER}"
_FORMS = {
    "splice": (rf"(.+)@{_NUMBER}", "TRACK@T", "other.json@1.5"),
    "retime": (rf"{_SPAN}={_NUMBER}", "A-B=SECONDS", "1-1.5=0.8"),
    "hold": (_SPAN, "A-B", "1-1.5"),
    "shut": (_SPAN, "A-B", "1-1.5"),
}
