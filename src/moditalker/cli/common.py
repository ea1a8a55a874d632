"""What the commands share: the application, options that many have, and the progress bar."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from moditalker import __version__
from moditalker.config.limits import BOUNDS
from moditalker.errors import UserError
from moditalker.jobs.files import check_name

if TYPE_CHECKING:
    from moditalker.provenance import Provenance

app = typer.Typer(
    help="Speech and a face in, a lip-synced talking video out: offline, on weights in the package.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # paragraphs flow
    context_settings={"help_option_names": ["-h", "--help"]},
)


MAKE, MEASURE, TRAIN, KEEP = "Make", "Measure", "Train", "Keep"  # groups of commands
FACE, SPEECH, MOTION, FILE = "The face", "The speech", "Motion", "The file"  # groups of options
MODEL, SIGNED = "The model", "What the file says about itself"


class Device(StrEnum):
    """Where the networks run."""

    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Extend(StrEnum):
    """What follows the end of a face video that is shorter than the audio."""

    pingpong = "pingpong"
    loop = "loop"
    hold = "hold"
    none = "none"


Model = Annotated[
    str,
    typer.Option(
        "--model",
        help="Weights: the name of a model in the package, a folder, or hf://USER/REPO, fetched once.",
        rich_help_panel=MODEL,
    ),
]
VideoWeights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Weights of the video stage, adapted to a person by `moditalker adapt`.",
        rich_help_panel=MODEL,
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting. May be repeated."),
]
(_LEAST_SEED, _MOST_SEED), (_LEAST_STEPS, _MOST_STEPS) = BOUNDS["seed"], BOUNDS["steps"]
Seed = Annotated[
    int,
    typer.Option(
        min=_LEAST_SEED, max=_MOST_SEED, help="The same seed gives the same frames.", rich_help_panel=MODEL
    ),
]
OtherSeed = Annotated[
    int | None,
    typer.Option(
        min=_LEAST_SEED,
        max=_MOST_SEED,
        help="The same seed gives the same frames. Default: 0, or the track's.",
        rich_help_panel=MODEL,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=_LEAST_STEPS,
        max=_MOST_STEPS,
        help="Sampling steps of both diffusion models. More steps are slower. Default: the model's.",
        rich_help_panel=MODEL,
    ),
]
Lossless = Annotated[
    bool,
    typer.Option(
        "--lossless",
        help="Lossless pictures: outside the mouth region equal to the source.",
        rich_help_panel=FILE,
    ),
]
Quality = Annotated[
    float,
    typer.Option(
        metavar="NUMBER",
        help="Of the written pictures: 0 (best, large) to 40, x264's constant rate factor.",
        rich_help_panel=FILE,
    ),
]
Size = Annotated[
    str,
    typer.Option(
        metavar="720p|WxH",
        help="Size of the written pictures: the shorter side, or the most of both. Default: the source's.",
        rich_help_panel=FILE,
    ),
]


class Codec(StrEnum):
    """Codec of the written pictures."""

    h264 = "h264"
    hevc = "hevc"
    vp9 = "vp9"
    av1 = "av1"


class PixelFormat(StrEnum):
    """Bits and colours of the written pictures."""

    yuv420p = "yuv420p"
    yuv422p = "yuv422p"
    yuv420p10 = "yuv420p10"
    yuv422p10 = "yuv422p10"


Coded = Annotated[
    Codec,
    typer.Option(
        help="How pictures are coded. H.264 plays on everything; HEVC and AV1 are smaller.",
        rich_help_panel=FILE,
    ),
]
Format = Annotated[
    PixelFormat,
    typer.Option(
        help="Bits and colours of the pictures. yuv420p plays on everything; others keep more.",
        rich_help_panel=FILE,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        help="Write what was done as JSON: frames, times, memory, faceless frames.", rich_help_panel=FILE
    ),
]
On = Annotated[Device, typer.Option(help="Where the networks run.", rich_help_panel=MODEL)]
Choose = Annotated[
    str,
    typer.Option(
        help="Among several faces: largest, speaker (in each shot), a number from the left (0, 1, ...), or "
        "x,y in pixels.",
        rich_help_panel=FACE,
    ),
]
AudioTrack = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="NUMBER",
        help="Which sound track of the audio file speaks, from 1. By default the one that players take.",
        rich_help_panel=SPEECH,
    ),
]
Extended = Annotated[
    Extend,
    typer.Option(
        help="A face video shorter than the audio goes on back and forth, from its start again, or "
        "with its last frame. A longer one ends with the audio.",
        rich_help_panel=FACE,
    ),
]
MouthGain = Annotated[float, typer.Option(help="Lip opening, times 0 to 5.", rich_help_panel=MOTION)]
Expression = Annotated[
    float,
    typer.Option(help="Other motion of the mouth, mainly its corners, times 0 to 5.", rich_help_panel=MOTION),
]
Smoothing = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", help="Smooth the motion over this many seconds, 0 to 1.", rich_help_panel=MOTION
    ),
]
NoProvenance = Annotated[
    bool,
    typer.Option(
        "--no-provenance",
        help="Write neither the manifest nor the mark that say that the video is synthetic. Publishing it "
        "may still require a notice: EU AI Act, Article 50 (docs/provenance.md).",
        rich_help_panel=SIGNED,
    ),
]
Consent = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Who agreed to this video: a line for its manifest.", rich_help_panel=SIGNED
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        help="Sign the manifest with this certificate (PEM, leaf first), not with a local one.",
        rich_help_panel=SIGNED,
    ),
]
Key = Annotated[Path | None, typer.Option(help="The certificate's private key, PEM.", rich_help_panel=SIGNED)]

Head = Annotated[
    str,
    typer.Option(
        metavar="idle|still|FILE",
        help="How the head of a picture moves: gently, not at all, by the poses of a .csv (yaw,pitch,roll in "
        "degrees, 25 rows a second), or as in another video.",
        rich_help_panel=MOTION,
    ),
]
Voice = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Who says a text: a voice of `moditalker weights add voice`, or of espeak-ng. Default: the "
        "former, if there is one of the language.",
        rich_help_panel=SPEECH,
    ),
]
Lang = Annotated[
    str,
    typer.Option(
        metavar="CODE",
        help="Language of a text, such as en or de, in place of a voice.",
        rich_help_panel=SPEECH,
    ),
]
Start = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="The face video is used from here on; of a film, the speech begins here.",
        rich_help_panel=FACE,
    ),
]
End = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="It is used up to here. Default: its end.", rich_help_panel=FACE),
]
Offset = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="The speech begins so much later; negative: with a later part of it.",
        rich_help_panel=SPEECH,
    ),
]


class Silence(StrEnum):
    """The mouth between new speech."""

    keep = "keep"
    shut = "shut"


class Original(StrEnum):
    """A film's own sound under new speech."""

    gone = "replace"
    duck = "duck"


Silent = Annotated[
    Silence,
    typer.Option(
        help="Between new speech the mouth is the film's own (keep), or shut.", rich_help_panel=SPEECH
    ),
]
Under = Annotated[
    Original,
    typer.Option(
        help="The film's own sound under new speech goes away (replace), or gets quieter.",
        rich_help_panel=SPEECH,
    ),
]
Blink = Annotated[
    float, typer.Option(help="Blinks of a picture, times a minute, 0 to 60.", rich_help_panel=MOTION)
]


@contextmanager
def progress_bar(unit: str = "frames") -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error; yields a function of a stage's name, frames done and frames in all.

    If standard error is no terminal, it prints a line for each tenth of a stage.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Tenths(unit)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<18}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("loading", total=None, count="")

        def show(stage: str, done: int, total: int) -> None:
            known = max(done, total) > 1  # else nobody knows how long it takes
            count, whole = (f"{done}/{total} {unit}", max(total, done)) if known else ("", None)
            progress.update(task, description=stage, completed=done, total=whole, count=count)

        yield show


class Tenths:
    """Progress as lines of standard error, one for each tenth of a stage."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._shown = ("", 0)  # stage, tenths

    def __call__(self, stage: str, done: int, total: int) -> None:
        """A stage's name, frames done and frames in all."""
        if total < 1:
            return
        if (done, total) == (0, 1) and stage != self._shown[0]:
            self._shown = (stage, 0)
            print(f"{stage} ...", file=sys.stderr, flush=True)
        tenths, (before, last) = min(10, 10 * done // total), self._shown
        if tenths > (last if stage == before else 0):
            self._shown = (stage, tenths)
            print(f"{stage}: {10 * tenths} % ({done}/{total} {self.unit})", file=sys.stderr, flush=True)


def parse_choice(text: str) -> str | int | tuple[float, float]:
    """largest; speaker; a number from the left; x,y in pixels. Raises UserError."""
    from moditalker.talker.options import parse_choice as parsed

    try:
        return parsed(text)
    except UserError as error:
        raise UserError(f"--{error}") from error


def parse_provenance(
    leave_out: bool, consent: str | None, certificate: Path | None, key: Path | None
) -> Provenance | None:
    """The provenance that the four options ask for, or None."""
    from moditalker.provenance import Provenance

    if leave_out:
        if consent is not None or certificate is not None or key is not None:
            raise UserError("--no-provenance: goes without --consent, --certificate and --key")
        return None
    return Provenance(consent, certificate, key)


def check_output(option: str, path: Path | None, taken: Iterable[Path | None]) -> None:
    """Raise UserError if a file cannot be written there, or would replace one of `taken`."""
    taken = tuple(taken)
    if path is None:
        return
    for name in (path, *taken):
        if name is not None:
            check_name(name)
    if not path.absolute().parent.is_dir():
        raise UserError(f"{option} {path}: its folder does not exist; make it, or choose another")
    if path.is_dir():
        raise UserError(f"{option} {path}: is a folder; give the name of a file")
    if any(_same(path, other) for other in taken if other is not None):
        raise UserError(f"{option} {path}: is one of the inputs, or another output; choose another name")


def _same(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):  # Path.resolve raises on links in a circle
        return True
    return one.exists() and other.exists() and one.samefile(other)


def report_video(out: Path, result: dict[str, Any], report: Path | None) -> None:
    """Print what was made on one line, and each note on a line of standard error; write the report."""
    if report is not None:
        write_json(report, result, "the report")
    lost = result.get("provenance", {}).get("manifest", "")
    for note in (*result["notes"], *([f"the manifest is {lost}"] if lost.startswith("left out: ") else [])):
        print(f"note: {printable(note)}", file=sys.stderr)
    kept = result["frames_without_face"]["count"]
    print(
        f"{out}: {result['frames']} frames, {result['fps']:g} fps, {result['width']}x{result['height']}, "
        f"{result['audio_seconds']:.2f} s of audio, made in {result['seconds']['total']:.1f} s"
        + (f"; {kept} frames without a usable face are unchanged" if kept else "")
    )


def write_json(path: Path, tree: dict[str, Any], what: str) -> None:
    """Write a file of JSON, whole or not at all; a terminal or a pipe as it comes. Raises UserError."""
    from moditalker.jobs.files import write_whole

    content = (json.dumps(tree, indent=2) + "\n").encode()
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            write_whole(Path(os.path.realpath(path)), content)
    except OSError as error:
        raise UserError(f"{path}: {what} cannot be written there ({error.strerror})") from error


def printable(text: str) -> str:
    """The text without control characters, which names of files may hold."""
    return text if text.isprintable() else repr(text)[1:-1]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"moditalker {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
