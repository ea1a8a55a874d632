"""`moditalker evaluate speed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moditalker.cli.common import Device, Model, On, Steps, check_output, write_json
from moditalker.cli.evaluate import evaluate


@evaluate.command()
def speed(
    face: Annotated[
        Path | None, typer.Option(help="A video or a picture; else the demo's portrait, a picture.")
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="Any file with sound; else the demo's sentence.")] = None,
    seconds: Annotated[
        float, typer.Option(help="Length of the video; the audio is cut or repeated to it.")
    ] = 30.0,
    repeat: Annotated[int, typer.Option(min=1, max=100, help="Number of runs; their medians are shown.")] = 1,
    out: Annotated[Path | None, typer.Option("--json", help="Write all figures as JSON.")] = None,
    model: Model = "tiny",
    steps: Steps = None,
    device: On = Device.cpu,
) -> None:
    """Measure start-up, first frame, seconds per stage, memory and arithmetic of a model on a device.

    Example: moditalker evaluate speed --face person.mp4 --audio speech.wav --seconds 30 --json bench.json
    """
    from moditalker.evaluate.speed import measure
    from moditalker.weights.named import PORTRAIT, SENTENCE

    face, audio = face or PORTRAIT, audio or SENTENCE
    check_output("--json", out, (face, audio))
    result = measure(face, audio, seconds, model, device.value, steps, repeat)
    if out is not None:
        write_json(out, result, "the figures")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The figures of `measure` as a table."""
    steps, flops, other = result["steps"], result["flops_per_second_of_video"], result["released"]

    def span(key: str, form: str = "g") -> str:
        return "-".join(format(value, form) for value in dict.fromkeys(other[key]))

    inputs = (
        f"{result['frames']} frames, {result['fps']:g} fps, {result['width']}x{result['height']}, "
        f"{result['video_seconds']:.2f} s; steps: motion {steps['motion']}, video {steps['video']}; "
        f"medians of {result['repeat']}\n"
    )
    lines = [
        f"preset {result['preset']} on {result['device']}: {result['processor']}, {result['threads']} in use",
        inputs,
        f"start-up         {result['startup_seconds']:8.2f} s  a new process, until the weights are loaded",
        f"first frame      {result['first_frame_seconds']:8.2f} s  from then on",
        f"whole video      {result['seconds']:8.2f} s  {result['cpu_seconds']:.2f} s of processor time",
        f"real-time factor {result['real_time_factor']:8.3f}    seconds of work for a second of video",
    ]
    if result["peak_rss_bytes"] is not None:
        lines.append(f"peak memory      {result['peak_rss_bytes'] / 1e6:8.0f} MB")
    lines.append("\nstage (in parallel)       seconds  processor  GFLOP for a second of video")
    for name, times in result["stages"].items():
        work = f"{flops[name] / 1e9:11.2f}" if name in flops else ""
        lines.append(f"{name:<24}{times['seconds']:10.2f}{times['cpu_seconds']:11.2f}{work}".rstrip())
    lines.append(f"{'all':<45}{flops['total'] / 1e9:11.2f}")
    lines.append(
        f"\nbeside it, the released networks ({other['device']}; {other['frames']} frames of 256x256): "
        f"encode {span('encode_seconds')} s,\n{other['steps']} steps of {span('step_seconds')} s, "
        f"decode {span('decode_seconds')} s: real-time factor {span('real_time_factor', '.0f')}"
    )
    return "\n".join(lines)
