"""Measures speed: start-up, first frame, each stage, memory, floating point operations."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from moditalker import __version__
from moditalker.config.limits import RATE
from moditalker.errors import UserError
from moditalker.features.face.cover import OUTLINES, SIDE, load_cover
from moditalker.geometry.looks import Identity
from moditalker.jobs.machine import peak_rss, processors
from moditalker.media import SAMPLE_RATE, AudioReader, write_wav
from moditalker.motion.atom import SPEECH_PER_FRAME
from moditalker.talker.talker import MoDiTalker

MAX_SECONDS = 3600.0

# The authors' released networks on two cores without a GPU: least and most seconds for a clip of 16 frames of
# 256x256. Their script takes 25 sampling steps.
RELEASED: dict[str, Any] = {
    "frames": 16,
    "fps": 25,
    "size": [256, 256],
    "device": "cpu, two cores",
    "encode_seconds": [20.0, 30.0],
    "step_seconds": [2.5, 6.0],
    "steps": 25,
    "decode_seconds": [20.0, 20.0],
}


def released() -> dict[str, Any]:
    """`RELEASED` and its real-time factor: seconds of work for a second of video."""
    clip = [
        encode + RELEASED["steps"] * step + decode
        for encode, step, decode in zip(
            RELEASED["encode_seconds"], RELEASED["step_seconds"], RELEASED["decode_seconds"], strict=True
        )
    ]
    return RELEASED | {"real_time_factor": [s / RELEASED["frames"] * RELEASED["fps"] for s in clip]}


def measure(
    face: Path,
    audio: Path,
    seconds: float | None = 30.0,
    preset: str = "tiny",
    device: str = "cpu",
    steps: int | None = None,
    repeat: int = 1,
) -> dict[str, Any]:
    """Make a video several times, and measure; times are medians, in seconds.

    Args:
        face, audio: as for `MoDiTalker.generate`.
        seconds: length of the video; the audio is cut or repeated to it. None: the audio's own.
        preset, device, steps: as for `MoDiTalker.from_pretrained` and `generate`.
        repeat: number of runs; start-up is measured as often, in new processes.

    Returns:
        startup_seconds: from the start of a new process until the weights are loaded.
        first_frame_seconds: from `generate` until the first frame is made and given to the encoder.
        seconds, cpu_seconds: from `generate` until the file is written; the second of all threads together.
        real_time_factor: seconds over the video's; below 1 is faster than real time.
        stages: name -> seconds and cpu_seconds of its thread; stages run in parallel, so their sum is more
        than the whole.
        peak_rss_bytes: peak memory of this process.
        flops_per_second_of_video: `flops`, and their total.
        released: `released`.

    Raises:
        UserError: as `generate`; a length or number of runs is out of range.
    """
    if seconds is not None and not 0 < seconds <= MAX_SECONDS:
        raise UserError(f"seconds is {seconds:g}; it must be above 0 and at most {MAX_SECONDS:g}")
    if repeat < 1:
        raise UserError(f"repeat is {repeat}; it must be at least 1")
    talker = MoDiTalker.from_pretrained(preset, device=device)
    with TemporaryDirectory(prefix="moditalker-bench-") as folder:
        sound = audio if seconds is None else _sound_of(audio, seconds, Path(folder) / "speech.wav")
        runs = [_run(talker, face, sound, steps, Path(folder) / "out.mp4") for _ in range(repeat)]
        peak = peak_rss()
    startup = [_start_up(preset, device) for _ in range(repeat)]
    report = runs[0]["report"]
    length = report["audio_seconds"]
    whole = median(run["seconds"] for run in runs)
    arithmetic = flops(talker, report["fps"], steps)
    return {
        "preset": talker.name,
        "device": device,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "version": __version__,
        "face": face.name,
        "audio": audio.name,
        "frames": report["frames"],
        "fps": report["fps"],
        "width": report["width"],
        "height": report["height"],
        "video_seconds": length,
        "steps": {
            "motion": steps or talker.config.atom_diffusion.sampling_steps,
            "video": steps or talker.config.mtov_diffusion.sampling_steps,
        },
        "repeat": repeat,
        "startup_seconds": round(median(startup), 3),
        "first_frame_seconds": round(median(run["first"] for run in runs), 3),
        "seconds": round(whole, 3),
        "cpu_seconds": round(median(run["cpu"] for run in runs), 3),
        "real_time_factor": round(whole / length, 4),
        "stages": {
            name: {
                kind: round(median(run["stages"][name][kind] for run in runs), 3)
                for kind in ("seconds", "cpu_seconds")
            }
            for name in runs[0]["stages"]
        },
        "peak_rss_bytes": peak,
        "flops_per_second_of_video": arithmetic | {"total": sum(arithmetic.values())},
        "released": released(),
    }


def flops(talker: MoDiTalker, fps: float, steps: int | None = None) -> dict[str, float]:
    """Count floating point operations for a second of video, by stage.

    torch counts matrix products, convolutions and attention: 2 for a multiplication with its addition. Work
    done once for a video (finding the face, the identity's planes) is left out.
    """
    config = talker.config
    window, hop = config.atom.frames, config.atom.frames - config.atom.overlap
    clip, advance = config.autoencoder.frames, config.autoencoder.frames - config.mtov.overlap
    size = config.crop.size
    crop = np.zeros((size, size, 3), np.uint8), np.full((68, 2), size / 2, np.float32)
    identity, mesh = Identity(*crop), talker.tracker.mesh
    picture = torch.zeros(1, 3, mesh.size, mesh.size)

    def speech() -> object:
        return talker.speech_encoder(np.zeros(talker.speech_encoder.core, np.float32))

    def motion(frames: int) -> object:
        features = np.zeros((SPEECH_PER_FRAME * frames, config.speech.width), np.float32)
        return list(talker.motion_stage([features], identity, 0, steps))

    def video(frames: int) -> object:
        return list(talker.sampler([(*crop, crop[1])] * frames, identity, 0, steps))

    def cover(frames: int) -> object:
        outlines = torch.zeros(frames, len(OUTLINES), SIDE, SIDE)
        return load_cover()(torch.zeros(frames, 3, SIDE, SIDE), outlines)

    if config.compose.enabled and config.compose.inside != "mtov":  # MToV is not used
        video, clip, advance = cover, 1, 1

    return {
        "speech": _counted(speech) * SAMPLE_RATE / talker.speech_encoder.core,
        "face": _counted(lambda: mesh(picture)) * fps,
        "motion": (_counted(lambda: motion(window + hop)) - _counted(lambda: motion(window))) * RATE / hop,
        "video": (_counted(lambda: video(clip + advance)) - _counted(lambda: video(clip))) * fps / advance,
    }


def _counted(work: Callable[[], object]) -> int:
    """Count operations of some work in this thread; attention counts as its matrix products."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        work()
    return int(counter.get_total_flops())


def _start_up(preset: str, device: str) -> float:
    """Measure seconds from the start of a process until its weights are loaded."""
    code = (
        "import sys, moditalker.cli\n"
        "from moditalker.talker.talker import MoDiTalker\n"
        "MoDiTalker.from_pretrained(sys.argv[1], device=sys.argv[2])\n"
        "print('ready', flush=True)\n"
    )
    begun = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", code, preset, device], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        seconds = time.perf_counter() - begun
    if ready.strip() != b"ready" or process.returncode:
        raise RuntimeError(f"a process that loads {preset!r} ended with code {process.returncode}")
    return seconds


def _run(talker: MoDiTalker, face: Path, audio: Path, steps: int | None, out: Path) -> dict[str, Any]:
    first: list[float] = []

    def progress(stage: str, done: int, _: int) -> None:
        if stage == "generating" and done == 1:
            first.append(time.perf_counter() - begun)

    begun, cpu = time.perf_counter(), time.process_time()
    video = talker.generate(face, audio, steps=steps, progress=progress)
    report = video.save(out)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    out.unlink()
    clock = video.clock
    stages = {
        name: {"seconds": clock.seconds[name], "cpu_seconds": clock.cpu[name]}
        for name in ("preparing", "speech", "motion", "face", "video", "paste", "write")
    }
    return {"first": first[0], "seconds": seconds, "cpu": cpu, "stages": stages, "report": report}


def _sound_of(audio: Path, seconds: float, out: Path) -> Path:
    """Cut or repeat the audio to a length; write it as 16-bit WAV at 16 kHz."""
    count = round(seconds * SAMPLE_RATE)
    samples = np.resize(AudioReader(audio).read(seconds), count)
    write_wav(out, samples)
    return out


def _processor() -> str:
    """The processor's name, if the system has it, and the number of usable cores."""
    name = platform.processor() or platform.machine()
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        lines: Iterable[str] = listing.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {processors()} cores"
