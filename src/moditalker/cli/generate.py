"""`moditalker generate` and `moditalker demo`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moditalker.cli.common import (
    AudioTrack,
    Blink,
    Certificate,
    Choose,
    Consent,
    Device,
    Expression,
    Extend,
    Extended,
    Head,
    Key,
    Lossless,
    MouthGain,
    NoProvenance,
    On,
    Out,
    Preset,
    Report,
    Seed,
    Smoothing,
    Steps,
    VideoWeights,
    app,
    check_output,
    parse_choice,
    parse_provenance,
    progress_bar,
    report_video,
)
from moditalker.errors import UserError

if TYPE_CHECKING:
    from moditalker.talker.talker import MoDiTalker


@app.command()
def generate(
    face: Annotated[Path, typer.Option(help="A video (head and upper face are kept) or a picture.")],
    audio: Annotated[Path, typer.Option(help="Any file with sound, also a video.")],
    out: Out,
    preset: Preset = "tiny",
    weights: VideoWeights = None,
    seed: Seed = 0,
    steps: Steps = None,
    lossless: Lossless = False,
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
    """Make the face say the audio.

    The video has the face video's frames, frame rate and size for as long as the audio lasts. A picture
    becomes 25 frames a second. Frames without a usable face stay as they are.

    Example: moditalker generate --face person.mp4 --audio speech.wav --out talking.mp4
    """
    from moditalker.motion.edit import Style

    options = {
        "seed": seed,
        "steps": steps,
        "extend": extend.value,
        "choose": parse_choice(choose),
        "head": head,
        "blink": blink,
        "style": Style(mouth_gain, expression, smoothing),
        "audio_track": audio_track,
        "provenance": parse_provenance(no_provenance, consent, certificate, key),
    }
    reads = (Path(head), certificate, key)
    return make_video(face, audio, out, options, preset, device.value, lossless, report, weights, reads)


@app.command()
def demo(
    out: Out = Path("moditalker-demo.mp4"),
    face: Annotated[Path | None, typer.Option(help="Another portrait than scikit-image's astronaut.")] = None,
    seed: Seed = 0,
    no_provenance: NoProvenance = False,
) -> None:
    """See it work: a portrait (NASA's, from scikit-image) says a sentence (synthesised, in the package).

    Example: moditalker demo --out demo.mp4
    """
    from moditalker.weights.named import ASSETS

    options = {"seed": seed, "provenance": parse_provenance(no_provenance, None, None, None)}
    make_video(face or portrait(), ASSETS / "demo_speech.flac", out, options)


def make_video(
    face: Path,
    audio: Path,
    out: Path,
    options: dict[str, Any],
    preset: str = "tiny",
    device: str = "cpu",
    lossless: bool = False,
    report: Path | None = None,
    weights: Path | None = None,
    reads: tuple[Path | None, ...] = (),
) -> dict[str, Any]:
    """What `generate` and `render` share: load, make, save, and say so; the report.

    reads: files beside face, audio and weights that are inputs too.
    """
    inputs = (face, audio, weights, *reads, *Path(preset).glob("*.safetensors"))
    check_output("--out", out, inputs)
    check_output("--report", report, (out, *inputs))
    with progress_bar() as show:
        video = loaded(preset, device, weights).generate(face, audio, progress=show, **options)
        result = video.save(out, lossless=lossless)
    report_video(out, result, report)
    return result


@lru_cache(maxsize=1)
def loaded(preset: str, device: str, weights: Path | None = None) -> MoDiTalker:
    """The weights; kept, for whoever makes several videos."""
    from moditalker.talker.talker import MoDiTalker

    return MoDiTalker.from_pretrained(preset, device, weights)


def portrait() -> Path:
    """The astronaut picture inside scikit-image (NASA, public domain)."""
    try:
        import skimage
    except ImportError as error:
        raise UserError(
            "the demo's portrait is in scikit-image: pip install 'moditalker[demo]', or give --face"
        ) from error
    return Path(skimage.__file__).parent / "data" / "astronaut.png"
