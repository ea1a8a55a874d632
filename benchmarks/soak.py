"""Does a long life cost anything? One long video, then many short jobs, in one process.

    python benchmarks/soak.py --minutes 60 --jobs 500
    python benchmarks/soak.py --minutes 2 --jobs 40 --results soak.json

The long video has a face video of its own length, so every frame's face is looked for. Each short job is a
picture or a video with a sentence; every tenth is a damaged file, and must end with a sentence for the user.
Memory (RSS), open files and threads are looked at each second of the long video and after each short job.
They are flat if, after a warm-up of a tenth, memory never stands more than 50 MB above the most that the
warm-up held, and files and threads never above theirs. What the warm-up holds is printed too.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

MORE = 50.0  # MB that memory may grow
WARM_UP = 0.1  # of the looks


@dataclass
class Looks:
    """What a process held, look by look."""

    memory: list[float] = field(default_factory=list)  # MB
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def take(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory.append(round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1))
        self.files.append(
            self.files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1)  # but for the list's own
        )  # without the one that lists them
        self.threads.append(sum(1 for _ in Path("/proc/self/task").iterdir()))

    @contextmanager
    def each(self, seconds: float) -> Iterator[None]:
        """Look from a thread of its own, which is counted too, until the block ends."""
        end = threading.Event()

        def watch() -> None:
            while not end.wait(seconds):
                self.take()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            end.set()
            watcher.join()

    def faults(self, what: str) -> list[str]:
        """What grew after the warm-up."""
        warm = max(1, int(len(self.memory) * WARM_UP))
        found = []
        for name, values, more in (
            ("MB", self.memory, MORE),
            ("files", self.files, 0),
            ("threads", self.threads, 0),
        ):
            before, after = max(values[:warm]), max(values[warm:], default=0)
            print(f"{what}: {name} {before:g} in the warm-up, {after:g} after it, {values[-1]:g} at the end")
            if after > before + more:
                found.append(f"{what}: {name} grew from {before:g} to {after:g}")
        tenths = [np.median(part) for part in np.array_split(self.memory, 10) if len(part)]
        print(f"{what}: MB by tenths " + ", ".join(f"{value:.0f}" for value in tenths))
        return found


def film(path: Path, size: int, seconds: float, chance: np.random.Generator) -> None:
    """A video of a face that turns and drifts, 20 s encoded once and shown again and again."""
    from moditalker.weights.named import PORTRAIT

    picture = Image.open(PORTRAIT).convert("RGB").resize((size, size))
    angles = 6 * np.sin(np.linspace(0, 6 * np.pi, 500)) + chance.normal(0, 0.2, 500)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25, options={"preset": "veryfast", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        packets = []
        for angle in angles:
            packets += stream.encode(
                av.VideoFrame.from_image(picture.rotate(angle, Image.Resampling.BILINEAR))
            )
        packets += stream.encode(None)
        step, contents = Fraction(1, 25), [(bytes(packet), packet.is_keyframe) for packet in packets]
        for number in range(max(1, round(seconds * 25))):
            content, key = contents[number % len(contents)]
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, step, key
            packet.pts = packet.dts = number
            packet.duration = 1
            file.mux(packet)


def sound(path: Path, seconds: float) -> None:
    """The demo's sentence, again and again."""
    from moditalker.media import AudioReader
    from moditalker.weights.named import SENTENCE

    once = AudioReader(SENTENCE).read(60.0)
    whole = np.resize(once, round(seconds * 16000))
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("flac", rate=16000, layout="mono")
        for begin in range(0, len(whole), 4096):
            part = np.ascontiguousarray(whole[None, begin : begin + 4096] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(part, "s16", "mono")
            frame.sample_rate, frame.pts = 16000, begin
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def frames(path: Path) -> int:
    """Frames of a written video, decoded."""
    with av.open(str(path)) as file:
        return sum(1 for _ in file.decode(video=0))


def long_video(talker: Any, folder: Path, size: int, minutes: float, seed: int) -> tuple[Looks, list[str]]:
    """One long video; the looks, and what is wrong."""
    face, audio, out, looks = folder / "film.mp4", folder / "speech.flac", folder / "out.mp4", Looks()
    film(face, size, 60 * minutes, np.random.default_rng(seed))
    sound(audio, 60 * minutes)
    begun, cpu = time.monotonic(), time.process_time()
    with looks.each(1.0):
        talker.generate(face, audio, seed=seed).save(out)
    took, cpu = time.monotonic() - begun, time.process_time() - cpu
    print(f"{minutes:g} minutes of {size} px in {took:.0f} s, {cpu:.0f} s of processor time", flush=True)
    faults = looks.faults("long video")
    if abs(frames(out) - 1500 * minutes) > 2:
        faults.append(f"long video: {frames(out)} frames")
    for path in (face, audio, out):
        path.unlink()
    return looks, faults


def short_jobs(talker: Any, folder: Path, size: int, count: int, seed: int) -> tuple[Looks, list[str]]:
    """Many short jobs, some of them damaged; the looks, and what is wrong."""
    from moditalker.errors import UserError
    from moditalker.weights.named import PORTRAIT

    chance, looks, faults = np.random.default_rng(seed), Looks(), []
    audio, out = folder / "speech.flac", folder / "out.mp4"
    faces = [folder / "face.png", folder / "face.mp4"]
    Image.open(PORTRAIT).convert("RGB").resize((size, size)).save(faces[0])
    film(faces[1], size, 1.0, chance)
    sound(audio, 0.8)
    (broken := folder / "broken.mp4").write_bytes(faces[1].read_bytes()[:3000])
    begun = time.monotonic()
    for number in range(count):
        damaged = number % 10 == 9
        face = broken if damaged else faces[number % 2]
        try:
            talker.generate(face, audio, seed=number).save(out)
            if damaged:
                faults.append(f"job {number}: a damaged file became a video")
            elif frames(out) != 20:
                faults.append(f"job {number}: {frames(out)} frames")
        except UserError as error:
            if not damaged:
                faults.append(f"job {number}: {error}")
        out.unlink(missing_ok=True)
        looks.take()
    print(f"{count} jobs of 0.8 s in {time.monotonic() - begun:.0f} s", flush=True)
    return looks, faults + looks.faults("short jobs")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="of the long video; 0: none")
    parser.add_argument("--jobs", type=int, default=500, help="short ones")
    parser.add_argument("--size", type=int, default=180, help="side of the video in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="every look as JSON")
    arguments = parser.parse_args()
    from moditalker import MoDiTalker

    results, faults = {}, list[str]()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        talker, folder = MoDiTalker.from_pretrained("tiny"), Path(name)
        if arguments.minutes:
            looks, wrong = long_video(talker, folder, arguments.size, arguments.minutes, arguments.seed)
            results["long video"], faults = asdict(looks), faults + wrong
        if arguments.jobs:
            looks, wrong = short_jobs(talker, folder, arguments.size, arguments.jobs, arguments.seed)
            results["short jobs"], faults = asdict(looks), faults + wrong
    if arguments.results is not None:
        arguments.results.write_text(json.dumps({**results, "faults": faults}))
    for fault in faults:
        print(fault)
    print("not flat" if faults else "flat")
    if faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
