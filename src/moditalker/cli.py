"""The command line: thin hands on `moditalker.pipeline`. A user's mistake is one sentence and exit code 2."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from moditalker import __version__
from moditalker.errors import UserError

app = typer.Typer(
    help="Speech and a face in, a lip-synced talking video out: offline, on weights in the package.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Device(str, Enum):
    """Where the networks run."""

    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Extend(str, Enum):
    """What follows the end of a face video that is shorter than the audio."""

    pingpong = "pingpong"
    loop = "loop"
    hold = "hold"
    none = "none"


Out = Annotated[Path, typer.Option("--out", "-o", help="The video to write; the container follows the name.")]
Preset = Annotated[str, typer.Option(help="Weights: the name of shipped ones, or a folder.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same frames.")]
Steps = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Sampling steps of both diffusion models; more is slower.")
]
Lossless = Annotated[
    bool, typer.Option("--lossless", help="Lossless pictures: outside the mouth region equal to the source.")
]
Report = Annotated[
    Path | None,
    typer.Option(help="Write what was done as JSON: frames, times, memory, faceless frames."),
]
On = Annotated[Device, typer.Option(help="Where the networks run.")]


@app.command()
def generate(
    face: Annotated[Path, typer.Option(help="A video (head and upper face are kept) or a picture.")],
    audio: Annotated[Path, typer.Option(help="Any file with sound, also a video.")],
    out: Out,
    preset: Preset = "tiny",
    seed: Seed = 0,
    steps: Steps = None,
    lossless: Lossless = False,
    report: Report = None,
    device: On = Device.cpu,
    extend: Annotated[
        Extend,
        typer.Option(
            help="A face video shorter than the audio goes on back and forth, from its start again, or "
            "with its last frame. A longer one ends with the audio."
        ),
    ] = Extend.pingpong,
    choose: Annotated[
        str,
        typer.Option(
            help="Among several faces: largest, a number from the left (0, 1, ...), or x,y in pixels."
        ),
    ] = "largest",
) -> None:
    """Make the face say the audio.

    The video has the face video's frames, frame rate and size for as long as the audio lasts. A picture
    becomes 25 frames a second. Frames without a usable face stay as they are.
    """
    _generate(
        face,
        audio,
        out,
        preset=preset,
        device=device.value,
        lossless=lossless,
        report=report,
        options={"seed": seed, "steps": steps, "extend": extend.value, "choose": _choice(choose)},
    )


@app.command()
def demo(
    out: Out = Path("moditalker-demo.mp4"),
    face: Annotated[Path | None, typer.Option(help="Another portrait than scikit-image's astronaut.")] = None,
    seed: Seed = 0,
) -> None:
    """See it work: a portrait (NASA's, from scikit-image) says a sentence (synthesised, in the package)."""
    from moditalker.weights import ASSETS

    _generate(
        face or _portrait(),
        ASSETS / "demo_speech.flac",
        out,
        preset="tiny",
        device="cpu",
        lossless=False,
        report=None,
        options={"seed": seed},
    )


@app.command()
def config(
    preset: Annotated[str | None, typer.Option(help="tiny, paper or released.")] = None,
    file: Annotated[Path | None, typer.Option(help="YAML with what differs.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="May be repeated.")
    ] = None,
) -> None:
    """Print the resolved configuration: defaults, then preset, file and --set."""
    from moditalker import config as configuration

    print(configuration.dump(configuration.load(preset, file, assignments or ())), end="")


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


def _generate(
    face: Path,
    audio: Path,
    out: Path,
    *,
    preset: str,
    device: str,
    lossless: bool,
    report: Path | None,
    options: dict[str, Any],
) -> None:
    from moditalker.pipeline import MoDiTalker

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} frames"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("loading", total=1)

        def show(stage: str, done: int, total: int) -> None:
            progress.update(task, description=stage, completed=done, total=max(total, done, 1))

        talker = MoDiTalker.from_pretrained(preset, device=device)
        result = talker.generate(face=face, audio=audio, progress=show, **options).save(
            out, lossless=lossless
        )
    if report is not None:
        try:
            report.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{report}: the report cannot be written there ({error.strerror})") from error
    kept = result["frames_without_face"]["count"]
    print(
        f"{out}: {result['frames']} frames, {result['fps']:g} fps, {result['width']}x{result['height']}, "
        f"{result['audio_seconds']:.2f} s of audio, made in {result['seconds']['total']:.1f} s"
        + (f"; {kept} frames without a usable face stay as they were" if kept else "")
    )


def _choice(text: str) -> str | int | tuple[float, float]:
    """largest; a number from the left; x,y in pixels."""
    if text == "largest":
        return text
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 2:
        return numbers[0], numbers[1]
    if len(numbers) == 1 and text.isdigit():
        return int(text)
    raise UserError(f"--choose {text}: largest, a number from the left (0, 1, ...), or x,y is expected")


def _portrait() -> Path:
    """The astronaut picture inside scikit-image (NASA, public domain)."""
    try:
        import skimage
    except ImportError as error:
        raise UserError(
            "the demo's portrait is in scikit-image: pip install 'moditalker[demo]', or give --face"
        ) from error
    return Path(skimage.__file__).parent / "data" / "astronaut.png"


def main(arguments: list[str] | None = None) -> None:
    """Run a command and leave the process: 0 done, 2 the user's mistake, 130 interrupted."""
    try:
        app(args=arguments, prog_name="moditalker")
    except UserError as error:
        print(f"moditalker: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("moditalker: interrupted", file=sys.stderr)
        sys.exit(130)
