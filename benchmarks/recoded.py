"""Does `verify` find a video after a chat application has made it small and coded it hard?

    python benchmarks/recoded.py faces/*.mp4 --audio speech.wav --crf 26 --crf 30 --crf 34

Each face says the first seconds of the sound; the video is then coded again as such applications do: the
shorter side 256 pixels, H.264 at a high rate factor, no metadata. The source videos go the same way without a
mark, where `verify` must find nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import av


def recode(source: Path, target: Path, side: int, crf: int, seconds: float) -> Path:
    """Through H.264 again, smaller, for at most some seconds; pictures alone."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        native = read.streams.video[0]
        scale = min(1.0, side / min(native.width, native.height))
        stream: Any = written.add_stream(
            "libx264", rate=native.average_rate, options={"crf": str(crf), "preset": "veryfast"}
        )
        stream.width, stream.height = (round(n * scale / 2) * 2 for n in (native.width, native.height))
        stream.pix_fmt = "yuv420p"
        for frame in read.decode(video=0):
            if frame.time is not None and frame.time >= seconds:
                break
            smaller = frame.reformat(stream.width, stream.height, "yuv420p", interpolation="BICUBIC")
            written.mux(stream.encode(smaller))
        written.mux(stream.encode(None))
    return target


def chances(path: Path, folder: Path, crfs: list[int], seconds: float, side: int) -> list[str]:
    """The mark's chance at each rate factor; below 1e-6 it is found."""
    from moditalker.provenance.verify import verify

    row = []
    for crf in crfs:
        mark = verify(recode(path, folder / "again.mp4", side, crf, seconds)).mark
        row.append("no face" if mark is None else f"{mark.chance:.0e}{' found' * mark.found}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faces", type=Path, nargs="+")
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--side", type=int, default=256, help="shorter side after recoding")
    parser.add_argument("--crf", type=int, action="append", help="may be repeated; default 30")
    arguments = parser.parse_args()
    from moditalker import MoDiTalker
    from moditalker.media import AudioReader, write_wav

    talker, crfs = MoDiTalker.from_pretrained("tiny"), arguments.crf or [30]
    found = {kind: [0] * len(crfs) for kind in ("made", "source")}
    with tempfile.TemporaryDirectory(prefix="recoded-") as name:
        folder = Path(name)
        write_wav(sound := folder / "speech.wav", AudioReader(arguments.audio).read(arguments.seconds))
        for face in arguments.faces:
            talker.generate(face, sound, seed=0).save(made := folder / "made.mp4")
            for kind, path in (("made", made), ("source", face)):
                row = chances(path, folder, crfs, arguments.seconds, arguments.side)
                print(f"| {face.parent.name} | {kind} | " + " | ".join(row) + " |", flush=True)
                for number, cell in enumerate(row):
                    found[kind][number] += "found" in cell
    for kind, counts in found.items():
        shown = ", ".join(f"CRF {crf}: {count}" for crf, count in zip(crfs, counts, strict=True))
        print(f"{kind}, of {len(arguments.faces)}: {shown}")


if __name__ == "__main__":
    main()
