"""`moditalker dub`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moditalker.cli.common import (
    MAKE,
    AudioTrack,
    Certificate,
    Choose,
    Codec,
    Coded,
    Consent,
    Device,
    End,
    Expression,
    Format,
    Key,
    Lang,
    Lossless,
    Model,
    MouthGain,
    NoProvenance,
    Offset,
    On,
    Original,
    PixelFormat,
    Quality,
    Report,
    Seed,
    Silence,
    Silent,
    Size,
    Smoothing,
    Start,
    Steps,
    Under,
    VideoWeights,
    Voice,
    app,
    check_output,
    parse_choice,
    parse_provenance,
    progress_bar,
    report_video,
)
from moditalker.cli.generate import free, loaded
from moditalker.errors import UserError
from moditalker.jobs.files import shortened

DUBBED = "-dubbed.mp4"  # the end of a name that was not chosen


@app.command(rich_help_panel=MAKE)
def dub(
    film: Annotated[Path, typer.Argument(help="A video of people who speak.")],
    audio: Annotated[Path | None, typer.Option(help="The new speech: any file with sound.")] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--srt",
            "--table",
            help="Who says what when: subtitles (.srt), or a .csv with columns start, end, text or audio, "
            "and perhaps face, voice, lang.",
        ),
    ] = None,
    text: Annotated[str, typer.Option(help="What is said, in place of an audio or a table.")] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The video to write. Default: the film's name and -dubbed.mp4."),
    ] = None,
    voice: Voice = "",
    lang: Lang = "",
    silence: Silent = Silence.keep,
    original: Under = Original.gone,
    start: Start = 0.0,
    end: End = None,
    offset: Offset = 0.0,
    choose: Choose = "largest",
    audio_track: AudioTrack = None,
    model: Model = "tiny",
    weights: VideoWeights = None,
    seed: Seed = 0,
    steps: Steps = None,
    quality: Quality = 20.0,
    lossless: Lossless = False,
    size: Size = "",
    codec: Coded = Codec.h264,
    pixel_format: Format = PixelFormat.yuv420p,
    report: Report = None,
    device: On = Device.cpu,
    mouth_gain: MouthGain = 1.0,
    expression: Expression = 1.0,
    smoothing: Smoothing = 0.0,
    no_provenance: NoProvenance = False,
    consent: Consent = None,
    certificate: Certificate = None,
    key: Key = None,
) -> dict[str, Any]:
    """Give a film new speech. Its length, its other pictures, sound tracks, subtitles and chapters stay.

    Lips change only where the new speech is. The new sound is the first track; the film's own follow it.

    Example: moditalker dub film.mkv --srt german.srt --lang de --out german.mkv
    """
    from moditalker.motion.edit import Style
    from moditalker.talker.lines import read_lines
    from moditalker.talker.options import Options

    if (audio is not None) + (table is not None) + bool(text) != 1:
        raise UserError("new speech is one of three: --audio, --srt or --text; give one of them")
    out = out or free(Path(shortened(film.stem, len(DUBBED) + 8, film.name) + DUBBED))
    options = Options(
        seed=seed,
        steps=steps,
        choose=parse_choice(choose),
        style=Style(mouth_gain, expression, smoothing),
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
        silence=silence.value,
        original=original.value,
    )
    lines = () if table is None else read_lines(table)
    sounds = [line.audio for line in lines]
    inputs = (film, audio, table, weights, certificate, key, *sounds, *Path(model).glob("*.safetensors"))
    check_output("--out", out, inputs)
    check_output("--report", report, (out, *inputs))
    with progress_bar() as show:
        talker = loaded(model, device.value, weights)
        made = talker.dub(film, audio, options, text=text, lines=lines, progress=show)
        result = made.save(out, lossless=lossless)
    report_video(out, result, report)
    return result
