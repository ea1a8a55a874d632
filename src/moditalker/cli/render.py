"""`moditalker render`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import (
    AudioTrack,
    Blink,
    Certificate,
    Choose,
    Consent,
    Device,
    Extend,
    Extended,
    Head,
    Key,
    Lossless,
    NoProvenance,
    On,
    OtherSeed,
    Out,
    Preset,
    Report,
    Steps,
    VideoWeights,
    app,
    parse_choice,
    parse_provenance,
)
from moditalker.cli.generate import make_video


@app.command()
def render(
    face: Annotated[Path, typer.Option(help="A video (head and upper face are kept) or a picture.")],
    motion: Annotated[Path, typer.Option(help="The track, from `moditalker motion`.")],
    audio: Annotated[Path, typer.Option(help="The sound, whose length the video has.")],
    out: Out,
    preset: Preset = "tiny",
    weights: VideoWeights = None,
    seed: OtherSeed = None,
    steps: Steps = None,
    lossless: Lossless = False,
    report: Report = None,
    device: On = Device.cpu,
    extend: Extended = Extend.pingpong,
    choose: Choose = "largest",
    audio_track: AudioTrack = None,
    head: Head = "idle",
    blink: Blink = 15.0,
    no_provenance: NoProvenance = False,
    consent: Consent = None,
    certificate: Certificate = None,
    key: Key = None,
) -> None:
    """Give a face the motion of a track.

    A track that was not changed gives the frames that `moditalker generate` gives.

    Example: moditalker render --face person.mp4 --motion track.json --audio speech.wav --out talking.mp4
    """
    from moditalker.motion.track import Track

    track = Track.load(motion)
    options = {
        "seed": track.seed if seed is None else seed,
        "steps": steps or track.steps,
        "extend": extend.value,
        "choose": parse_choice(choose),
        "head": head,
        "blink": blink,
        "motion": track,
        "audio_track": audio_track,
        "provenance": parse_provenance(no_provenance, consent, certificate, key),
    }
    reads = (motion, Path(head), certificate, key)
    make_video(face, audio, out, options, preset, device.value, lossless, report, weights, reads)
