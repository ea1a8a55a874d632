"""What do threads cost on processors that others use too? Parts of the work under several settings, in turns.

    python benchmarks/threads.py --rounds 3
    python benchmarks/threads.py --load 8

Each figure is from a process of its own: one or all threads of torch, whose waiting threads sleep (as every
command of ours has them) or spin (as OpenMP has them by default), NumPy with one thread or with all. --load
starts so many processes that count, and do nothing else, beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

SETTINGS = {
    "one thread": ("1", "PASSIVE", "1"),
    "all, that sleep": ("", "PASSIVE", "1"),
    "all, that spin": ("", "ACTIVE", ""),
}


def face() -> Callable[[], object]:
    """The face networks on 25 frames of 512x512."""
    import numpy as np
    from PIL import Image

    from moditalker.features.face.tracker import FaceTracker
    from moditalker.weights.named import PORTRAIT

    picture = np.asarray(Image.open(PORTRAIT).convert("RGB").resize((512, 512)))
    tracker = FaceTracker()
    return lambda: list(tracker.track([picture] * 25, 25.0))


def training() -> Callable[[], object]:
    """A step of MToV of the preset tiny, batch 2."""
    import torch

    from moditalker import config
    from moditalker.video.model import VideoModel

    settings = config.load("tiny")
    model = VideoModel(settings)
    size, frames = settings.autoencoder, settings.autoencoder.frames
    video, still = (torch.zeros(2, 3, n, size.height, size.width) for n in (frames, 1))
    points = 30 + 40 * torch.rand(2, frames, 68, 2)
    noise = torch.randn_like(model.stills(still[:, :, 0], still, points[:, 0]).identity)

    def step() -> None:
        given = model.conditions(video, still, still[:, :, 0], points, points[:, 0])
        model.predict(noise, torch.ones(2, dtype=torch.long), given).square().mean().backward()

    return step


def metric() -> Callable[[], object]:
    """SSIM of 10 frames of 256x256."""
    import numpy as np

    from moditalker.metrics.ssim import ssim

    a, b = np.random.default_rng(0).random((2, 10, 256, 256, 3)).astype(np.float32)
    return lambda: [ssim(x, y) for x, y in zip(a, b, strict=True)]


def job() -> Callable[[], object]:
    """A whole job: the portrait at 512x512 says 2 s, into a file."""
    import tempfile

    from PIL import Image
    from soak import sound

    from moditalker import MoDiTalker
    from moditalker.weights.named import PORTRAIT

    folder = Path(tempfile.mkdtemp(prefix="threads-"))
    Image.open(PORTRAIT).convert("RGB").resize((512, 512)).save(folder / "face.png")
    sound(folder / "speech.flac", 2.0)
    talker = MoDiTalker.from_pretrained("tiny")
    return lambda: talker.generate(folder / "face.png", folder / "speech.flac").save(folder / "out.mp4")


PARTS = {"face": face, "training": training, "metric": metric, "job": job}


def measured(part: str, setting: str) -> tuple[float, float]:
    """Seconds and seconds of processor time of a part, the faster of two, in a new process."""
    threads, policy, numpy = SETTINGS[setting]
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    values = (threads, policy, numpy, threads)
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {name: value for name, value in zip(names, values, strict=True) if value}
    command = [sys.executable, __file__, "--part", part]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    wall, cpu = json.loads(told.splitlines()[-1])
    return wall, cpu


def own(part: str) -> None:
    """In the new process."""
    work, times = PARTS[part](), []
    work()
    for _ in range(2):
        begun, cpu = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - begun, time.process_time() - cpu))
    print(json.dumps(min(times)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", type=int, default=0, help="processes beside it")
    parser.add_argument("--part", choices=[*PARTS], help="this one here and now, as JSON")
    arguments = parser.parse_args()
    if arguments.part:
        own(arguments.part)
        return
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.load)]
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        for _ in range(arguments.rounds):
            for part in PARTS:
                for setting in SETTINGS:
                    times.setdefault((part, setting), []).append(measured(part, setting))
    finally:
        for process in busy:
            process.kill()
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors; seconds: clock (processor)")
    print("| | " + " | ".join(SETTINGS) + " |")
    print("|---" * (len(SETTINGS) + 1) + "|")
    for part in PARTS:
        cells = []
        for setting in SETTINGS:
            wall, cpu = (median(one[n] for one in times[part, setting]) for n in (0, 1))
            cells.append(f"{wall:.2f} ({cpu:.2f})")
        print(f"| {part} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
