"""`moditalker generate` and `moditalker demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moditalker.cli.common import (
    Device,
    Extend,
    Lossless,
    On,
    Out,
    Preset,
    Report,
    Seed,
    Steps,
    app,
    progress_bar,
)
from moditalker.errors import UserError


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

    with progress_bar() as show:
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
