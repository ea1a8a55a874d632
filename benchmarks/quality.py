"""How near to a source's frames, and how large, is what is written, by quality?

    python benchmarks/quality.py shared/data/natural/dev/d01/a.mp4 --quality 14,18,20 --frames 150

The source's own frames are written, so that the figures are those of all that a video leaves as it is. PSNR
is of the mean squared error of all pixels of a file, in RGB and of the luma; bits are those of the pictures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import islice
from pathlib import Path

import av
import numpy as np

from moditalker.media import CODECS, QUALITY, Frame, MediaInfo, VideoWriter, open_source


def picture_bytes(path: Path, frames: int) -> float:
    """Of a frame, on average over the first ones."""
    with av.open(str(path)) as container:
        sizes = (packet.size for packet in container.demux(video=0) if packet.size)
        return float(np.mean(list(islice(sizes, frames))))


def decibels(errors: list[float]) -> float:
    """PSNR of squared errors in grey levels."""
    return float(10 * np.log10(255**2 / np.mean(errors)))


def measure(
    frames: list[Frame], info: MediaInfo, quality: float, out: Path, codec: str = "h264"
) -> tuple[float, float, float]:
    """PSNR in RGB, PSNR of the luma where there is one, frames a second."""
    begun = time.perf_counter()
    with VideoWriter(out, info, quality=quality, codec=codec) as writer:
        for frame in frames:
            writer.write(frame)
    rate = len(frames) / (time.perf_counter() - begun)
    colours, lumas = [], []
    for one, other in zip(frames, open_source(out), strict=True):
        colours.append(float(((one.image.astype(np.float32) - other.image) ** 2).mean()))
        if one.yuv is not None and other.yuv is not None:
            lumas.append(float(((one.yuv[0].astype(np.float32) - other.yuv[0]) ** 2).mean()))
    return decibels(colours), decibels(lumas) if lumas else float("nan"), rate


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--quality", default=f"{QUALITY:g}")
    parser.add_argument("--codec", default="h264", choices=tuple(CODECS))
    parser.add_argument("--frames", type=int, default=150, help="At most, from the start.")
    arguments = parser.parse_args()
    print("| video | size | quality | PSNR, RGB | PSNR, luma | kbit/s | of the source's | frames a second |")
    print("|---|---|---|---|---|---|---|---|")
    for video in arguments.videos:
        source = open_source(video)
        info, frames = source.info, list(islice(source, arguments.frames))
        own = picture_bytes(video, len(frames))
        for quality in map(float, arguments.quality.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "written.mp4"
                colours, luma, rate = measure(frames, info, quality, out, arguments.codec)
                made = picture_bytes(out, len(frames))
            print(
                f"| {video.parent.name}/{video.name} | {info.width}x{info.height} | {quality:g} "
                f"| {colours:.1f} | {luma:.1f} | {made * 8 * float(info.fps) / 1000:.0f} "
                f"| {made / own:.1f} | {rate:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
