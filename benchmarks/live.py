"""How late is each frame when somebody speaks? Sound is played in real time, again and again.

    python benchmarks/live.py person.mp4 speech.wav --seconds 600

A frame's delay is counted from the beginning of its own sound, which was heard when the clock said so, to the
moment at which the frame is there to be shown. Memory is what the process holds, once a minute.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from moditalker.media import SAMPLE_RATE, AudioReader
from moditalker.talker.talker import MoDiTalker


class Microphone:
    """A file's sound, repeated, in chunks that come when their last sample has been spoken."""

    def __init__(self, path: Path, seconds: float, chunk: float) -> None:
        self.sound, self.seconds, self.size = AudioReader(path).read(), seconds, round(chunk * SAMPLE_RATE)
        self.begun = 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.begun = time.perf_counter()
        for start in range(0, round(self.seconds * SAMPLE_RATE), self.size):
            due = self.begun + (start + self.size) / SAMPLE_RATE
            time.sleep(max(0.0, due - time.perf_counter()))
            yield self.sound[np.arange(start, start + self.size) % len(self.sound)]


def resident() -> float:
    """MB that this process holds; NaN where the system does not say."""
    status = Path("/proc/self/statm")
    return (
        int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if status.exists() else np.nan
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("face", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long it is spoken")
    parser.add_argument("--deadline", type=float, default=1.0, help="seconds, as for MoDiTalker.stream")
    parser.add_argument("--chunk", type=float, default=0.04, help="seconds of sound that come at once")
    parser.add_argument("--model", default="live")
    arguments = parser.parse_args()

    talker = MoDiTalker.from_pretrained(arguments.model)
    microphone = Microphone(arguments.audio, arguments.seconds, arguments.chunk)
    before = time.perf_counter()
    stream = talker.stream(arguments.face, microphone, deadline=arguments.deadline)
    info = stream.info
    ready = time.perf_counter() - before
    print(f"{info.width}x{info.height}, {float(info.fps):.3g} frames/s; ready in {ready:.1f} s")
    print(f"frames depend on what is heard {stream.ahead:.2f} s after the beginning of their sound")
    delays, memory, minute, cpu = list[float](), list[float](), 0, time.process_time()
    for frame, _ in stream.video:
        delays.append(time.perf_counter() - microphone.begun - float(frame.time))
        if frame.time >= 60 * minute:
            memory.append(resident())
            minute += 1
    spent, made = time.process_time() - cpu, len(delays)
    everything = made + stream.dropped
    median, late = np.percentile(delays, [50, 95])
    share = stream.dropped / everything
    print(f"{everything} frames, {made} shown, {stream.dropped} dropped ({100 * share:.2f} %)")
    print(f"{made / arguments.seconds:.2f} frames/s, {1000 * spent / everything:.0f} ms of processor a frame")
    print(f"delay {median:.2f} s in the median, {late:.2f} s at 95 %, {max(delays):.2f} s at most")
    print("MB held, minute by minute: " + ", ".join(f"{value:.0f}" for value in memory))
    print(
        "ms of processor a frame: "
        + ", ".join(
            f"{name} {1000 * value / everything:.1f}" for name, value in stream.video.clock.cpu.items()
        )
    )


if __name__ == "__main__":
    main()
