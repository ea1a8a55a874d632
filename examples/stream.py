"""Make a face say speech while the speech is still arriving, into a file and, with --window, on the screen.

    python examples/stream.py person.mp4 speech.wav talking.mp4 --window

The speech's file stands for a microphone: it is given in chunks, with --live no sooner than it is spoken.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moditalker import MoDiTalker
from moditalker.errors import UserError
from moditalker.media import SAMPLE_RATE, AudioReader


def spoken(audio: str, live: bool, seconds: float = 0.1) -> Iterator[NDArray[np.float32]]:
    """A file's sound as a microphone gives it: mono chunks at 16 kHz."""
    begun, given = time.perf_counter(), 0.0
    for piece in AudioReader(audio):
        for chunk in np.array_split(piece, max(1, round(len(piece) / (seconds * SAMPLE_RATE)))):
            given += len(chunk) / SAMPLE_RATE
            if live:
                time.sleep(max(0.0, begun + given - time.perf_counter()))
            yield chunk


class Window:
    """Shows frames, each for as long as it should stay.

    Raises:
        ImportError, RuntimeError: this Python has no Tk, or there is no screen.
    """

    def __init__(self, fps: float) -> None:
        import tkinter

        self.tk, self.step, self.due = tkinter, 1 / fps, 0.0
        try:
            self.label = tkinter.Label(tkinter.Tk())
        except tkinter.TclError as error:
            raise RuntimeError(error) from error
        self.label.pack()

    def show(self, image: NDArray[np.uint8]) -> None:
        header = f"P6 {image.shape[1]} {image.shape[0]} 255\n".encode()
        self.picture = self.tk.PhotoImage(data=header + image.tobytes(), format="PPM")
        self.label.configure(image=self.picture)
        time.sleep(max(0.0, self.due - time.perf_counter()))
        self.label.update()
        self.due = max(self.due, time.perf_counter()) + self.step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("face", help="a video or a picture")
    parser.add_argument("audio", help="a file with speech")
    parser.add_argument("out", help="the video to write")
    parser.add_argument("--window", action="store_true", help="show the frames too")
    parser.add_argument("--live", action="store_true", help="give the speech no sooner than it is spoken")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--deadline", type=float, help="seconds, with --live: later frames are left out")
    arguments = parser.parse_args()

    talker = MoDiTalker.from_pretrained(arguments.model)
    begun = time.perf_counter()
    chunks = spoken(arguments.audio, arguments.live)
    stream = talker.stream(arguments.face, chunks, deadline=arguments.deadline)
    window, first = None, 0.0
    if arguments.window:
        try:
            window = Window(float(stream.info.fps))
        except (ImportError, RuntimeError) as error:
            print(f"no window: {error}")

    def watch(image: NDArray[np.uint8]) -> None:
        nonlocal first
        first = first or time.perf_counter() - begun
        if window is not None:
            window.show(image)

    frames = stream.video.save(arguments.out, audio=arguments.audio, watch=watch)["frames"]
    print(f"first frame after {first:.2f} s, {frames} frames after {time.perf_counter() - begun:.2f} s")
    if stream.dropped:
        print(f"{stream.dropped} frames were left out: they would have come too late")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"stream.py: {error}")
