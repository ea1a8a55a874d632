"""Does hostile input break anything? Cases from seeds, against the command line and the service.

    python benchmarks/campaign.py --count 300 --seed 0 --results results.jsonl
    python benchmarks/campaign.py --only track --count 100
    python benchmarks/campaign.py --case 17 --keep folder

Each case is a folder of input and a command, in a process of its own with limits of memory and time: a
fork of one that has the package loaded. Right are: exit 0 with a result that can be read, exit 2 (or 4xx)
with one sentence, and exit 1 of `verify` and `batch`, which mean something by it. Wrong are: a traceback, a
signal, too much time or memory, half a file, a changed input.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import wave
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

Chance = random.Random
GIB = 1 << 30
PARTIAL_CODES = {"verify": (0, 1), "batch": (0, 1)}  # exit 1: "does not say so", "a job failed"
PICTURES = (".png", ".jpg", ".webp", ".gif", ".bmp", ".tiff")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
VIDEOS = (".mp4", ".mkv", ".avi", ".webm", ".mov", ".ts")


@dataclass
class Case:
    """A command and what it may do.

    made: paths that it may write; marks: files that must not appear; ends: after so many seconds the command
    is asked to end (SIGTERM), because its work is honest but takes days; 0: never; cut: the
    request stops before the end that it announced.
    """

    number: int
    kind: str
    what: str = ""
    command: list[str] = field(default_factory=list)
    made: list[Path] = field(default_factory=list)
    marks: list[Path] = field(default_factory=list)
    ends: float = 0.0
    cut: bool = False


@dataclass
class Outcome:
    """A line of the results."""

    number: int
    kind: str
    what: str
    command: list[str]
    code: int
    seconds: float
    mb: int
    said: str
    faults: list[str]


# ------------------------------------------------------------------------------------------------- material


class Material:
    """Whole files that hostile ones are made of: a portrait, a short sentence, and both as videos."""

    def __init__(self, folder: Path) -> None:
        from moditalker.media import AudioReader
        from moditalker.weights.named import PORTRAIT, SENTENCE

        self.folder = folder
        picture = Image.open(PORTRAIT).convert("RGB").resize((192, 192))
        sound = AudioReader(SENTENCE).read(0.8)
        for suffix in PICTURES:
            picture.save(folder / f"face{suffix}")
        for suffix in SOUNDS:
            self._sound(folder / f"speech{suffix}", sound)
        for suffix in VIDEOS:
            self._video(folder / f"film{suffix}", picture, sound)

    def _sound(self, path: Path, sound: Any) -> None:
        codec = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "mp3", ".ogg": "libopus", ".m4a": "aac"}
        with av.open(str(path), "w") as file:
            self._heard(
                file,
                file.add_stream(
                    codec[path.suffix], rate=48000 if path.suffix == ".ogg" else 16000, layout="mono"
                ),
                sound,
            )

    def _heard(self, file: Any, stream: Any, sound: Any) -> None:
        frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 16000, 0
        fifo, sizes = av.AudioFifo(), stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(
            stream.codec_context.format or "s16", "mono", stream.codec_context.sample_rate
        )
        for piece in resampler.resample(frame):
            fifo.write(piece)
        for piece in (*fifo.read_many(sizes), fifo.read()):
            if piece is not None:
                file.mux(stream.encode(piece))
        file.mux(stream.encode(None))

    def _video(self, path: Path, picture: Image.Image, sound: Any) -> None:
        codecs = {".webm": ("libvpx", "libopus"), ".avi": ("mpeg4", "mp3")}
        video, audio = codecs.get(path.suffix, ("libx264", "aac"))
        with av.open(str(path), "w") as file:
            stream: Any = file.add_stream(video, rate=25)
            stream.width, stream.height, stream.pix_fmt = 192, 192, "yuv420p"
            heard = file.add_stream(audio, rate=48000 if audio == "libopus" else 16000, layout="mono")
            for number in range(10):
                moved = picture.rotate(number / 4)
                file.mux(stream.encode(av.VideoFrame.from_image(moved)))
            file.mux(stream.encode(None))
            self._heard(file, heard, sound)

    def file(self, stem: str, suffix: str) -> bytes:
        return (self.folder / f"{stem}{suffix}").read_bytes()


# ----------------------------------------------------------------------------------------------- mutations


def truncated(content: bytes, chance: Chance) -> bytes:
    return content[: int(len(content) * chance.random())]


def flipped(content: bytes, chance: Chance) -> bytes:
    broken = bytearray(content)
    for _ in range(chance.choice((1, 8, 64, 512))):
        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
    return bytes(broken)


def head_flipped(content: bytes, chance: Chance) -> bytes:
    head = min(len(content), 256)
    return flipped(content[:head], chance) + content[head:]


def holed(content: bytes, chance: Chance) -> bytes:
    begin = chance.randrange(len(content))
    length = chance.choice((16, 512, 4096))
    filling = chance.choice((b"\0", b"\xff", b"")) * length
    return content[:begin] + filling[:length] + content[begin + length :]


def extreme(content: bytes, chance: Chance) -> bytes:
    """A whole number somewhere becomes as large, or as small, as it can be."""
    broken, at = bytearray(content), chance.randrange(max(1, min(len(content), 4096) - 8))
    value = chance.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
    broken[at : at + 4] = struct.pack(chance.choice("<>") + "I", value)
    return bytes(broken)


def repeated(content: bytes, chance: Chance) -> bytes:
    return content * chance.randrange(2, 5)


MUTATIONS: tuple[Callable[[bytes, Chance], bytes], ...] = (
    *(truncated, flipped, head_flipped, holed, extreme, repeated),
)


def mutated(
    material: Material, stem: str, suffixes: tuple[str, ...], chance: Chance
) -> tuple[bytes, str, str]:
    """Content, the suffix of its name, and what was done; one in six is named as something else."""
    suffix, mutate = chance.choice(suffixes), chance.choice(MUTATIONS)
    content = mutate(material.file(stem, suffix), chance)
    named = chance.choice((*PICTURES, *SOUNDS, *VIDEOS)) if chance.random() < 1 / 6 else suffix
    return content, named, f"{stem}{suffix} {mutate.__name__} as {named}"


# --------------------------------------------------------------------------------------------------- kinds


def generates(case: Case, folder: Path, face: Path, audio: Path, *more: str) -> None:
    out = folder / "made.mp4"
    case.command, case.made = ["generate", str(face), str(audio), f"--out={out}", *more], [out]


def picture(case: Case, folder: Path, material: Material, chance: Chance) -> None:
    content, suffix, case.what = mutated(material, "face", PICTURES, chance)
    (face := folder / f"face{suffix}").write_bytes(content)
    generates(case, folder, face, material.folder / "speech.wav")


def sound(case: Case, folder: Path, material: Material, chance: Chance) -> None:
    content, suffix, case.what = mutated(material, "speech", SOUNDS, chance)
    (audio := folder / f"speech{suffix}").write_bytes(content)
    generates(case, folder, material.folder / "face.png", audio)


def video(case: Case, folder: Path, material: Material, chance: Chance) -> None:
    content, suffix, case.what = mutated(material, "film", VIDEOS, chance)
    (film := folder / f"film{suffix}").write_bytes(content)
    if chance.random() < 0.3:
        case.command = ["verify", str(film)]
    else:
        generates(case, folder, film, material.folder / "speech.wav")


def remuxed(case: Case, folder: Path, material: Material, chance: Chance) -> None:
    """Streams of one container, copied into another; time stamps may jump, swap or run backwards."""
    source, suffix = chance.choice((".mp4", ".mkv", ".avi", ".ts")), chance.choice((".mkv", ".mp4", ".avi"))
    change = chance.choice(("none", "jump", "back", "same", "drop", "huge"))
    film = folder / f"film{suffix}"
    with (
        contextlib.suppress(av.error.FFmpegError, ValueError, OverflowError),
        av.open(str(material.folder / f"film{source}")) as read,
        av.open(str(film), "w") as written,
    ):
        streams = {s.index: written.add_stream_from_template(s) for s in read.streams}
        for number, packet in enumerate(read.demux()):
            if packet.dts is None or (change == "drop" and chance.random() < 0.4):
                continue
            moved = {"jump": 10**6 * (number > 5), "back": -number * 600, "huge": 2**40 * (number > 3)}
            packet.pts, packet.dts = (
                None if value is None else (0 if change == "same" else value + moved.get(change, 0))
                for value in (packet.pts, packet.dts)
            )
            packet.stream = streams[packet.stream_index]
            with contextlib.suppress(av.error.FFmpegError):
                written.mux(packet)
    if not film.exists():
        film.write_bytes(b"")
    case.what = f"{source} into {suffix}, time stamps: {change}"
    generates(case, folder, film, material.folder / "speech.wav")


def header(case: Case, folder: Path, material: Material, chance: Chance) -> None:
    """Sizes, rates and numbers of channels that no one means, written by hand."""
    audio, face = material.folder / "speech.wav", material.folder / "face.png"
    if chance.random() < 0.6:
        audio = folder / "speech.wav"
        rate = chance.choice((0, 1, 7, 999, 16000, 10**6, 2**31 - 1, 2**32 - 1))
        channels, bits = (
            chance.choice((0, 1, 2, 64, 255, 65535)),
            chance.choice((0, 1, 8, 12, 16, 24, 32, 64)),
        )
        code, size = chance.choice((1, 3, 6, 7, 0xFFFE, 0x55)), chance.choice((0, 32000, 2**31, 2**32 - 1))
        data = np.random.default_rng(case.number).bytes(chance.choice((10, 32000)))
        if code == 3:
            data = np.array([np.nan, np.inf, -np.inf, 3e38] * 4000, np.float32).tobytes()
        kind = struct.pack("<HHIIHH", code, channels, rate, rate * channels * bits // 8 % 2**32, 4, bits)
        riff = b"WAVEfmt " + struct.pack("<I", 16) + kind + b"data" + struct.pack("<I", size) + data
        audio.write_bytes(b"RIFF" + struct.pack("<I", chance.choice((len(riff), 0, 2**32 - 1))) + riff)
        case.what = f"wav of {rate} Hz, {channels} channels, {bits} bits, code {code}, {size} bytes said"
    else:
        width, height = (chance.choice((0, 1, 15, 16, 8193, 65535, 2**31 - 1)) for _ in range(2))
        face = folder / "face.png"
        face.write_bytes(png(width, height, zlib.compress(bytes(1000))))
        case.what = f"png of {width}x{height}"
    generates(case, folder, face, audio)


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def deflated(count: int) -> bytes:
    """So many zeros, as a thousandth of them."""
    packer, block = zlib.compressobj(9), bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, packer.flush()])


def bomb(case: Case, folder: Path, material: Material, chance: Chance) -> None:
    """Small files that become large ones."""
    speech, face = material.folder / "speech.wav", folder / "face.png"
    which = chance.choice(("png", "text", "gif", "yaml", "json", "spreadsheet", "wav"))
    case.what = which
    if which == "png":
        side = chance.choice((12_000, 13_000, 30_000))
        face.write_bytes(png(side, side, deflated(min(3 * side * side, 1 << 29))))
    elif which == "text":
        info = b"Comment\0\0" + deflated(1 << 28)
        whole = material.file("face", ".png")
        chunk = struct.pack(">I", len(info)) + b"zTXt" + info + struct.pack(">I", zlib.crc32(b"zTXt" + info))
        face.write_bytes(whole[:33] + chunk + whole[33:])
    elif which == "gif":
        face = folder / "face.gif"
        face.write_bytes(b"GIF89a" + struct.pack("<HH", 65535, 65535) + material.file("face", ".gif")[10:])
    elif which == "yaml":
        (file := folder / "settings.yaml").write_text(
            "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
        )
        case.command = ["config", f"--file={file}"]
        return
    elif which == "json":
        (file := folder / "track.json").write_text("[" * 10**6)
        case.command, case.made = ["motion", f"--track={file}", f"--out={folder / 'out.json'}"], []
        return
    elif which == "spreadsheet":
        with zipfile.ZipFile(file := folder / "jobs.csv", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("xl/sharedStrings.xml", bytes(1 << 28))
        batches(case, folder, file)
        return
    else:
        face, speech = material.folder / "face.png", folder / "speech.wav"
        with wave.open(str(speech), "wb") as writer:
            writer.setparams((1, 2, 16000, 0, "NONE", ""))
        with speech.open("r+b") as sparse:
            sparse.truncate(3 * GIB)  # 18 hours of silence, without a block on the disk
            sparse.seek(40)
            sparse.write(struct.pack("<I", 2**31))
        case.ends = 20.0
    generates(case, folder, face, speech)


def batches(case: Case, folder: Path, table: Path) -> None:
    out = folder / "videos"
    case.command, case.made = ["batch", str(table), f"--out={out}"], [out]


def name(case: Case, folder: Path, material: Material, chance: Chance) -> None:
    """Names that are options, patterns, folders, pipes, devices, loops, or too long."""
    odd = ("-n.png", "%d.png", "a\nb.png", "face;rm -rf.png", "\u202egnp.png", "[0-9]*.png", "concat:a|b.png")
    odd += (
        "http:face.png",
        "\udcff.png",
        "data:image.png",
        "k" * 251 + ".png",
        " .png",
        "'\".png",
        "\x1b[31m.png",
    )
    which, out = chance.randrange(8), folder / "made.mp4"
    face: Path | str = folder / chance.choice(odd)
    audio: Path | str = material.folder / "speech.wav"
    if which < 3:
        shutil.copy(material.folder / "face.png", face)
    elif which == 3:
        os.mkfifo(face := folder / "pipe.png")
    elif which == 4:
        (face := folder / "loop.png").symlink_to("loop.png")
    elif which == 5:
        face = chance.choice(
            ("/dev/zero", "/dev/full", "/dev/null", "/proc/self/mem", "", ".", "\0", "k" * 5000)
        )
    elif which == 6:
        face = material.folder / "face.png"
        audio = chance.choice(
            ("http://127.0.0.1:1/a.wav", "concat:a", "/dev/zero", "subfile,,0:/etc/passwd", "-")
        )
    else:
        face = material.folder / "face.png"
        ends = (
            "k" * 252 + ".mp4",
            "no/such/folder/a.mp4",
            "a.exe",
            "",
            ".mp4",
            "a\nb.mp4",
            "%d.mp4",
            "\udcff.mp4",
        )
        out = folder / chance.choice(ends)
    case.what = f"face {str(face)[-40:]!a}, audio {str(audio)[-30:]!a}, out {out.name[-30:]!a}"
    if "\0" in str(face):
        face = "a"  # no system passes it
    case.command = ["generate", f"--face={face}", f"--audio={audio}", f"--out={out}"]
    case.made = [out]


def table(case: Case, folder: Path, material: Material, chance: Chance) -> None:
    """Lists of jobs, and of lines of a film."""
    cells = (
        "",
        "x",
        "-1",
        "nan",
        "1e999",
        "9" * 5000,
        "../../x",
        "=cmd|' /C calc'!A0",
        '"',
        "\0",
        "\ud7ff",
        "{}",
    )
    cells += (
        str(folder / "missing"),
        str(material.folder / "face.png"),
        "a,b",
        "--help",
        "true",
        "[1]",
        "0-0",
    )
    heads = ("face", "audio", "name", "seed", "steps", "text", "--model", "start", "end", "out", "", "face")
    rows = [[chance.choice(cells) for _ in range(chance.randrange(1, 6))] for _ in range(chance.randrange(4))]
    head = [*["face", "audio"][: chance.randrange(3)], *chance.sample(heads, 3)]
    which = chance.choice(("csv", "jsonl", "srt", "lines", "bytes"))
    text = "\n".join(chance.choice(",;\t").join(row) for row in [head, *rows])
    if which == "jsonl":
        values: tuple[Any, ...] = (*cells, None, 1e308, -5, [], {}, True)
        text = "\n".join(
            json.dumps(dict(zip(head, [chance.choice(values) for _ in head], strict=True))) for _ in rows
        )
        text += chance.choice(("", "\n[1]", "\n{", "\nnull", "\n" + "[" * 100_000))
    if which == "srt":
        times = ("00:00:00,000 --> 00:00:01,000", "99:99:99,999 --> 00:00:00,000", "0 --> 1", "-->", "x")
        text = "\n\n".join(f"{chance.choice(cells)[:9]}\n{chance.choice(times)}\nHello." for _ in range(3))
    content = text.encode("utf-8", "surrogatepass")
    if which == "bytes":
        content = flipped(content * 3 or b"x", chance)
    if chance.random() < 0.2:
        content = text.encode("utf-16", "surrogatepass")
    if which in ("srt", "lines"):
        file = folder / ("lines.srt" if which == "srt" else "lines.csv")
        file.write_bytes(content)
        out = folder / "made.mp4"
        case.command = ["dub", str(material.folder / "film.mp4"), f"--srt={file}", f"--out={out}"]
        case.made = [out]
    else:
        (file := folder / ("jobs.jsonl" if which == "jsonl" else "jobs.csv")).write_bytes(content)
        batches(case, folder, file)
    case.what = f"{which}: {text[:80]!a}"


def track(case: Case, folder: Path, material: Material, chance: Chance) -> None:
    """Motion tracks: JSON of wrong shapes, kinds and sizes."""
    points = np.round(np.random.default_rng(case.number).normal(0, 0.3, (68, 3)), 3).tolist()
    tree: dict[str, Any] = {"format": "moditalker-motion", "version": 1, "fps": 25, "identity": points}
    tree |= {"made": {"seed": 1}, "frames": [points] * 4}
    values: list[Any] = [None, -1, 10**400, 1e308, "x", [], {}, True, [[]], [points[:5]], [[["a"] * 3] * 68]]
    values += [
        {"seed": chance.choice((10**30, -1, "x", [], 1.5, None))},
        {"steps": "x"},
        [[[1e300] * 3] * 68],
    ]
    for _ in range(chance.randrange(1, 3)):
        tree[chance.choice((*tree, "new"))] = chance.choice(values)
    text = json.dumps(tree)
    if chance.random() < 0.3:
        text = text.replace(
            "0.", chance.choice(("NaN", "-Infinity", "1e", "0x", "00.")), chance.randrange(1, 4)
        )
    content = text.encode()
    if chance.random() < 0.3:
        content = chance.choice(MUTATIONS)(content, chance)
    (file := folder / "track.json").write_bytes(content)
    case.what = f"track with {[k for k in ('made', 'fps', 'version') if tree.get(k) not in (1, 25)]}"
    if chance.random() < 0.5:
        out = folder / "out.json"
        edits = [f"--hold={chance.choice(('0-1', '1-0', '-1-2', 'nan-1', '0-1e99', 'x', ''))}"]
        edits += [f"--retime=0-1={chance.choice(('0', '1e9', 'nan', '-1'))}"] * (chance.random() < 0.5)
        case.command, case.made = ["motion", f"--track={file}", f"--out={out}", *edits], [out]
    else:
        generates(
            case, folder, material.folder / "face.png", material.folder / "speech.wav", f"--motion={file}"
        )


def config(case: Case, folder: Path, material: Material, chance: Chance) -> None:
    """Settings: YAML and --set."""
    mark = folder / "ran"
    lines = (
        f"!!python/object/apply:os.system ['touch {mark}']",
        *("atom: {layers: -1}", "atom: {layers: 1e99}", "atom: [1]", "atom: x", "- 1", "x", "'", "{", "? :"),
        *(
            "atom: {layers: .nan}",
            "atom: {nothing: 1}",
            "nothing: 1",
            "1: 2",
            "null: null",
            "atom: {layers: yes}",
        ),
        *(
            "preset: tiny",
            "preset: ../../etc/passwd",
            "atom: *none",
            "a: &a {b: *a}",
            "%YAML 9.9\n---",
            "---\n---",
        ),
        *(
            "atom: {layers: " + "9" * 5000 + "}",
            "\0",
            "[" * 5000,
            "atom: {layers: 2001-01-01}",
            "\t",
            "speech: 1",
        ),
    )
    text = "\n".join(chance.sample(lines, chance.randrange(1, 3)))
    content = text.encode() if chance.random() < 0.8 else flipped(text.encode(), chance)
    (file := folder / "settings.yaml").write_bytes(content)
    sets = (
        "atom.layers=x",
        "atom=1",
        "=",
        ".=.",
        "atom.layers",
        "atom..x=1",
        "atom.layers=1e400",
        "a" * 9999,
    )
    case.command = ["config", f"--file={file}"]
    if chance.random() < 0.4:
        case.command += ["--set", chance.choice(sets)]
    case.what, case.marks = f"{content[:80]!r}", [mark]


class Runs:
    """What a pickle runs, if it is loaded without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.mark,)


def weights(case: Case, folder: Path, material: Material, chance: Chance) -> None:
    """Models: damaged, made up, with lying headers, or with code inside."""
    from moditalker.weights.files import load_weights, save_weights
    from moditalker.weights.named import MODELS

    case.marks = [mark := folder / "ran"]
    (model := folder / "model").mkdir()
    if chance.random() < 0.35:
        file = folder / "atom.pt"
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Runs(mark), 2))
            archive.writestr("archive/version", b"3")
        contents = {
            "a pickle": pickle.dumps(Runs(mark)),
            "torch's archive": whole.getvalue(),
            "text": b"hello",
        }
        contents |= {
            "its half": whole.getvalue()[:-40],
            "flipped": flipped(whole.getvalue(), chance),
            "none": b"",
        }
        case.what = chance.choice(list(contents))
        file.write_bytes(contents[case.what])
        case.command = ["weights", "convert", f"--atom={file}", f"--out={(out := folder / 'out')}"]
        case.made = [out]
        return
    for path in (MODELS / "tiny").glob("*.safetensors"):
        shutil.copy(path, model / path.name)
    file = model / chance.choice(("atom.safetensors", "mtov.safetensors"))
    which = chance.choice(("mutated", "header", "length", "config", "shape", "missing"))
    content, case.what = file.read_bytes(), f"{file.name}: {which}"
    if which == "mutated":
        file.write_bytes(chance.choice(MUTATIONS)(content, chance))
    elif which == "length":
        file.write_bytes(
            struct.pack("<Q", chance.choice((0, 2**63, 2**40, 10**8, len(content)))) + content[8:]
        )
    elif which == "header":
        heads = (b"{}", b"[]", b"null", b"{" * 10_000, b'{"a": 1}', b'{"__metadata__": {"moditalker": "{"}}')
        heads += (
            b'{"__metadata__": {"moditalker": "[]"}}',
            b'{"__metadata__": {"moditalker": "{}"}}',
            b"\xff\xfe",
        )
        heads += (b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}',)
        head = chance.choice(heads)
        file.write_bytes(struct.pack("<Q", len(head)) + head + bytes(4))
    elif which == "missing":
        file.unlink()
    else:
        state, about = load_weights(file)
        settings = about["config"]
        if which == "config":  # a right checksum over a configuration that lies
            section = chance.choice([key for key, value in settings.items() if isinstance(value, dict)])
            key = chance.choice(list(settings[section]))
            settings[section][key] = chance.choice((None, -1, 10**9, "x", [], {}, float("1e300"), True))
            case.what += f", {section}.{key} = {settings[section][key]!r}"
        else:
            key = chance.choice(list(state))
            state[key] = state[key].reshape(-1)[: chance.randrange(1, 5)].clone()
            case.what += f", {key}"
        extra = {key: value for key, value in about.items() if key not in ("config", "sha256")}
        save_weights(file, state, settings, extra)
    generates(case, folder, material.folder / "face.png", material.folder / "speech.wav", f"--model={model}")


KINDS: dict[str, Callable[[Case, Path, Material, Chance], None]] = {
    **{
        "picture": picture,
        "sound": sound,
        "video": video,
        "remuxed": remuxed,
        "header": header,
        "bomb": bomb,
    },
    **{"name": name, "table": table, "track": track, "config": config, "weights": weights},
}


# ----------------------------------------------------------------------------------------------- one case


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of all files below a folder; of other things, what they are; of sparse giants, their size."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            found[str(path)] = "other"
        elif path.stat().st_size > GIB:
            found[str(path)] = str(path.stat().st_size)
        else:
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def run_here(command: list[str]) -> int:
    """Run a command in this process, a fork that has nothing else to do: its exit code; 1 for a traceback."""
    from moditalker.cli import main as moditalker

    try:
        moditalker(command)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def forked(
    command: list[str], log: Path, seconds: float, memory: int, ends: float = 0.0
) -> tuple[int, float, int]:
    """Run a command in a fork with limits: its exit code (below 0: a signal), seconds, and peak in MB."""
    begun = time.monotonic()
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        code = 70
        try:
            os.setsid()
            for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
                path = os.devnull if not number else log.with_suffix(".out") if number == 1 else log
                os.dup2(os.open(path, flags | (os.O_CREAT if number else 0), 0o600), number)
            held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (held + memory, held + memory))
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 5, int(seconds) + 5))
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * GIB, 2 * GIB))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            code = run_here(command)
        finally:
            os._exit(code)
    late = asked_to_end = False
    while True:
        gone, status, usage = os.wait4(child, os.WNOHANG)
        if gone:
            break
        if not late and time.monotonic() - begun > seconds:
            late = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        if ends and not asked_to_end and time.monotonic() - begun > ends:
            asked_to_end = True
            os.kill(child, signal.SIGTERM)
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    return (-signal.SIGALRM if late else code), time.monotonic() - begun, usage.ru_maxrss >> 10


def sentence(said: str) -> bool:
    """Whether what was said ends with one sentence for the user, or with the parser's box about a word."""
    lines = [line for line in said.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("moditalker: ")]
    return (len(own) == 1 and own[0] == lines[-1]) or ("─ Error ─" in said and not own)


def readable(path: Path) -> bool:
    """Whether a result can be read whole."""
    if path.is_dir() or path.suffix == ".json":
        return True
    try:
        with av.open(f"file:{path}") as file:
            return sum(1 for _ in file.decode(video=0)) > 0
    except (av.error.FFmpegError, ValueError, IndexError):
        return False


def judged(case: Case, code: int, said: str, before: dict[str, str], folder: Path) -> list[str]:
    """What is wrong with what a command did."""
    faults = []
    if "Traceback (most recent call last)" in said:
        faults.append("traceback")
    allowed = (128 + signal.SIGTERM,) if case.ends else PARTIAL_CODES.get(case.command[0], (0,))
    if code == -signal.SIGALRM:
        faults.append("too long")
    elif code < 0:
        faults.append(f"signal {-code}")
    elif code not in (*allowed, 2):
        faults.append(f"exit {code}")
    if code == 2 and not sentence(said):
        faults.append("no sentence")
    after = digests(folder)
    faults += [f"changed {Path(path).name!a}" for path in before if after.get(path) != before[path]]
    made = [str(path) for path in case.made]
    new = [path for path in after if path not in before]
    left = [p for p in new if not any(p == one or p.startswith(f"{one}/") for one in made)]
    faults += [f"left {Path(path).name[-60:]!a}" for path in left]
    if code not in allowed or case.ends:
        faults += [f"a result of what failed: {Path(p).name[-60:]!a}" for p in new if p not in left]
    if code == 0 and case.command[0] == "generate" and not all(readable(path) for path in case.made):
        faults.append("no readable result")
    faults += [f"code was run: {path.name}" for path in case.marks if path.exists()]
    return faults


def tried(number: int, kind: str, seed: int, material: Material, folder: Path, limits: Any) -> Outcome:
    case, chance = Case(number, kind), Chance(f"{seed} {number} {kind}")
    (inside := folder / "case").mkdir()
    KINDS[kind](case, inside, material, chance)
    before = digests(inside) | digests(material.folder)
    log = folder / "log"
    code, seconds, peak = forked(case.command, log, limits.seconds, int(limits.gib * GIB), case.ends)
    said = log.read_text(errors="backslashreplace") if log.exists() else ""
    faults = judged(case, code, said, {p: d for p, d in before.items() if p.startswith(str(inside))}, inside)
    kept = digests(material.folder)
    faults += [f"changed {path}" for path, digest in kept.items() if before.get(path) != digest]
    if peak > limits.gib * 1024:
        faults.append(f"{peak} MB")
    words = [
        word.replace(str(inside), "CASE").replace(str(material.folder), "WHOLE") for word in case.command
    ]
    shown = said[-3000:] if faults else (said.strip().splitlines() or [""])[-1][:300]
    shown = shown.replace(str(inside), "CASE").replace(str(material.folder), "WHOLE")
    return Outcome(number, kind, case.what, words, code, round(seconds, 2), peak, shown, faults)


# ------------------------------------------------------------------------------------------------ service


class Service:
    """`moditalker serve`, with memory limited, and raw requests to it."""

    def __init__(self, folder: Path, gib: float) -> None:
        self.log = folder / "log"
        command = [sys.executable, "-m", "moditalker", "serve", f"--folder={folder / 'service'}", "--port=0"]
        command[-1:] = ["--max-rate=1000000", "--max-megabytes=1", "--max-seconds=5"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.gib, self.port = gib, 0
        for _ in range(600):
            said = self.log.read_text()
            if "http://127.0.0.1:" in said:
                self.port = int(said.split("http://127.0.0.1:")[1].split()[0].strip("/."))
                return
            time.sleep(0.1)
        raise SystemExit(f"the service does not start: {self.log.read_text()}")

    def ask(self, request: bytes, cut: bool, seconds: float) -> bytes:
        """Send bytes, and read until the service closes, has answered, or the time is over."""
        answer = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as line:
            with contextlib.suppress(ConnectionError):
                line.sendall(request)
                if cut:  # what was announced never comes
                    line.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while piece := line.recv(65536):
                    answer += piece
        return answer

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def request(case: Case, material: Material, chance: Chance) -> bytes:
    """A request that is wrong, or that sends a file that is."""
    which = chance.choice(("file", "file", "form", "head", "path", "options", "raw"))
    host = b"Host: 127.0.0.1\r\nConnection: close\r\n"
    path, body, kind = b"/jobs", b"", b"multipart/form-data; boundary=x"
    part = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    if which == "file":
        stem, suffixes = chance.choice((("face", PICTURES), ("speech", SOUNDS), ("film", VIDEOS)))
        content, suffix, case.what = mutated(material, stem, suffixes, chance)
        path = b"/sounds" if stem == "speech" else b"/faces"
        body = part % (b"file", b'; filename="f%s"' % suffix.encode(), content) + b"--x--\r\n"
    elif which == "form":
        whole = part % (b"face", b'; filename="a"', b"junk") + part % (b"text", b"", b"Hi.") + b"--x--\r\n"
        body = chance.choice((truncated, flipped, holed))(whole, chance)
        kind = chance.choice((kind, b"multipart/form-data", b"application/json", b"x" * 200, b"text/plain"))
    elif which == "head":
        heads = (b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"X: " + b"a" * 100_000)
        heads += (b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF", b": x", b"Range: bytes=9-1,x")
        heads += (
            b"Cookie: " + b"\xff" * 99,
            b"Idempotency-Key: " + b"k" * 9999,
            b"Expect: 9",
            b"A:b\r\n" * 300,
        )
        head = chance.choice(heads)
        case.what, case.cut = f"{which} {head[:40]!r}", b"9999999" in head or b"FFFF" in head
        return b"POST /jobs HTTP/1.1\r\n" + host + head + b"\r\n\r\n"
    elif which == "path":
        paths = (
            b"/jobs/..%2f..%2fetc%2fpasswd",
            b"/faces/%00/picture",
            b"/jobs/" + b"a" * 5000,
            b"/%ff",
            b"//",
        )
        paths += (
            b"/jobs?limit=x",
            b"/jobs/\xff/video",
            b"/jobs/%0d%0aX:y/events",
            b"/nothing",
            b"/jobs/'--/report",
        )
        path = chance.choice(paths)
        case.what = f"{which} {path[:40]!r}"
        return b"GET " + path + b" HTTP/1.1\r\n" + host + b"\r\n"
    elif which == "options":
        names = (
            b"seed",
            b"steps",
            b"mouth_gain",
            b"expression",
            b"model",
            b"face",
            b"text",
            b"nothing",
            b"choose",
        )
        values = (b"x", b"-1", b"1e400", b"nan", b"9" * 5000, b"../..", b"\xff\xfe", b"", b"\0", b"<b>" * 999)
        body = part % (b"face", b'; filename="a.png"', material.file("face", ".png"))
        body += part % (b"text", b"", chance.choice((b"", b"\xff", b"a" * 5000)))
        body += part % (chance.choice(names), b"", chance.choice(values)) + b"--x--\r\n"
    else:
        case.what = which
        return np.random.default_rng(case.number).bytes(chance.choice((1, 100, 5000))) + b"\r\n\r\n"
    case.what = f"{which} {path.decode()} {case.what}"
    more = 0 if chance.random() < 0.9 else chance.choice((-3, 50))
    size, case.cut = b"Content-Length: %d\r\n" % (len(body) + more), more > 0
    return (
        b"POST " + path + b" HTTP/1.1\r\n" + host + b"Content-Type: " + kind + b"\r\n" + size + b"\r\n" + body
    )


def asked(number: int, seed: int, material: Material, service: Service, seconds: float) -> Outcome:
    case, chance = Case(number, "http"), Chance(f"{seed} {number} http")
    sent, begun, faults = request(case, material, chance), time.monotonic(), []
    try:
        answer = service.ask(sent, case.cut, seconds)
    except TimeoutError:
        answer = b""
        faults.append("too long")
    took, (head, _, body) = time.monotonic() - begun, answer.partition(b"\r\n\r\n")
    words = head.split()
    code = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    if not code and not case.cut and not faults:
        faults.append("no answer")
    if code >= 500 and code != 503:
        faults.append(f"status {code}")
    if code >= 400:
        try:
            told = json.loads(body)
            right = list(told) == ["error"] and bool(told["error"]) and "\n" not in told["error"]
        except ValueError:  # what is no HTTP is answered below the service, by one line of text
            right = body.strip().decode("latin-1").count("\n") == 0 and len(body) > 3
        if not right:
            faults.append("no sentence")
    if service.process.poll() is not None:
        raise SystemExit(f"case {number}: the service has ended; {service.log.read_text()[-3000:]}")
    if "Traceback" in (log := service.log.read_text(errors="replace")):
        faults.append("traceback")
        service.log.write_text("")
    peak = int(Path(f"/proc/{service.process.pid}/statm").read_text().split()[1]) * 4 >> 10
    if peak > service.gib * 1024:
        faults.append(f"{peak} MB")
    said = (log[-3000:] if faults else "") + body[:200].decode("utf-8", "backslashreplace")
    return Outcome(number, "http", case.what, [], code, round(took, 2), peak, said, faults)


# --------------------------------------------------------------------------------------------------- main


def outcomes(arguments: argparse.Namespace, kinds: list[str], work: Path) -> Iterator[Outcome]:
    (whole := work / "whole").mkdir()
    material, service = Material(whole), None
    numbers = range(arguments.count) if arguments.case is None else [arguments.case]
    try:
        for number in numbers:
            kind = kinds[number % len(kinds)]
            if kind == "http":
                service = service or Service(work, arguments.gib)
                yield asked(number, arguments.seed, material, service, arguments.seconds)
                continue
            with tempfile.TemporaryDirectory(dir=work) as name:
                yield tried(number, kind, arguments.seed, material, Path(name), arguments)
                if arguments.keep is not None:
                    shutil.copytree(name, arguments.keep, symlinks=True, dirs_exist_ok=True)
    finally:
        if service is not None:
            service.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*KINDS, "http"]
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND", action="append", choices=names, help=", ".join(names))
    parser.add_argument("--case", type=int, help="this one alone")
    parser.add_argument("--keep", type=Path, help="a new folder for the inputs of --case")
    parser.add_argument("--seconds", type=float, default=90.0, help="that a case may take")
    parser.add_argument("--gib", type=float, default=4.0, help="of memory that a case may take")
    parser.add_argument("--results", type=Path, help="a line of JSON for each case")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # a fork has no threads of its parent's
    import torch

    from moditalker import MoDiTalker  # noqa: F401  (loaded once, for all forks)

    torch.set_num_threads(1)
    kinds, counts, wrong = arguments.only or names, Counter[str](), list[Outcome]()
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-")))
        file = stack.enter_context(arguments.results.open("w")) if arguments.results else None
        os.environ |= {"XDG_CONFIG_HOME": str(work / "settings"), "XDG_STATE_HOME": str(work / "state")}
        for outcome in outcomes(arguments, kinds, work):
            counts[outcome.kind] += 1
            if file is not None:
                print(json.dumps(asdict(outcome)), file=file, flush=True)
            if outcome.faults:
                wrong.append(outcome)
                print(
                    f"{outcome.number} {outcome.kind} ({outcome.what}): {', '.join(outcome.faults)}",
                    flush=True,
                )
                print("    " + outcome.said[-1500:].replace("\n", "\n    "), flush=True)
    took, failed = time.monotonic() - begun, Counter(outcome.kind for outcome in wrong)
    for kind in counts:
        print(f"{kind}: {counts[kind] - failed[kind]} of {counts[kind]} right")
    right, count = sum(counts.values()) - len(wrong), sum(counts.values())
    print(f"seed {arguments.seed}: {right} of {count} right, {took:.0f} s")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
