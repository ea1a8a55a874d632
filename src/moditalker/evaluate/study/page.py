"""Makes a page for a user study: people compare videos of two models without knowing which is which.

The page is static files and needs neither server nor network. A key outside its folder says which side
is which. Nothing inside reveals it: all videos are recoded by one codec, without metadata, under random
names and with one date. `preference` reads the answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from PIL import Image

from moditalker.errors import UserError
from moditalker.evaluate.observe import SLACK
from moditalker.evaluate.pairs import videos_in
from moditalker.jobs.files import inside, write_whole
from moditalker.media import Color, VideoReader, VideoWriter, read_picture

Progress = Callable[[str, int, int], None]

FORMAT, VERSION = "moditalker-ab", 1  # format of the key
TEMPLATE = Path(__file__).parent / "page.html"
TIME_BASE = Fraction(1, 90_000)  # s, exact for the usual frame rates; one for both models
DATE = 946_684_800  # 2000-01-01, for all files of a page
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}  # endings of pictures of the person
SYNC, IDENTITY, QUALITY, REAL = "sync", "identity", "quality", "real"
QUESTIONS = {
    SYNC: "On which side do the lips fit the sound better?",
    IDENTITY: "On which side does the face stay more one and the same person?",
    QUALITY: "On which side is the picture better: sharper, steadier, with fewer flaws?",
    REAL: "Which side looks more like a real recording, all in all?",
}
IDENTITY_BESIDE_FACE = "Which side looks more like the person above?"


@dataclass(frozen=True)
class Videos:
    """Two videos of one name, one of each model; face: a video or picture of the person, if there is one."""

    name: str
    a: Path
    b: Path
    face: Path | None = None


@dataclass(frozen=True)
class Trial:
    """A pair as the page shows it."""

    videos: Videos
    a_is_left: bool


def match_videos(a: Path, b: Path, face: Path | None = None) -> list[Videos]:
    """Match the videos of two folders by name, whatever their endings, sorted by name.

    face: a folder with a video or picture of the same name for each. Raises UserError: no such folder, no
    common name, two files of one name, a face is missing.
    """
    for folder in (a, b, *([face] if face else [])):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give a folder of videos")
    one, other = videos_in(a), videos_in(b)
    if not (names := sorted(one.keys() & other.keys())):
        raise UserError(
            f"{a} ({len(one)} videos) and {b} ({len(other)}) have no name in common; files belong "
            "together whose names are equal up to the ending"
        )
    faces = {} if face is None else videos_in(face, PICTURES)
    if face is not None and (missing := [name for name in names if name not in faces]):
        raise UserError(f"{face}: there is no video or picture {missing[0]!r}; each comparison needs a face")
    return [Videos(name, one[name], other[name], faces.get(name)) for name in names]


def arrange(videos: Sequence[Videos], rng: random.Random) -> list[Trial]:
    """Arrange trials in random order; each model is on the left in half of them, give or take one."""
    lefts = [bool(number % 2) for number in range(len(videos))]
    if rng.random() < 0.5:  # which model is left once more often
        lefts = [not left for left in lefts]
    rng.shuffle(lefts)
    order = list(videos)
    rng.shuffle(order)
    return [Trial(one, left) for one, left in zip(order, lefts, strict=True)]


def make_page(
    a: Path,
    b: Path,
    out: Path,
    key: Path,
    face: Path | None = None,
    seed: int | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> list[str]:
    """Write the page (out/index.html, out/videos/) and the key that says which side is which.

    seed: for the order, the sides and the files' names; None draws one, and the key holds it. Both appear
    whole or not at all. Returns obvious differences between the two models' videos (size, length).
    Raises UserError: see `match_videos`; files cannot be read, have no sound or would be overwritten.
    """
    if inside(key, out):
        raise UserError(f"{key} is in the page's folder, where visitors could read it; choose another --key")
    if key.exists() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UserError(
            f"{key if key.exists() else out} is already there, and there may be answers to it; give another "
            "name"
        )
    videos = match_videos(a, b, face)
    notes = [note for one in videos for note in _differences(one)]
    seed = secrets.randbits(32) if seed is None else seed
    rng = random.Random(seed)
    trials = arrange(videos, rng)
    tree = _key(a, b, seed, trials, face is not None)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        key.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as part:
            _write(Path(part) / "page", tree, trials, rng, progress)
            write_whole(key, (json.dumps(tree, indent=1) + "\n").encode())
            (Path(part) / "page").replace(out)
    except OSError as error:
        raise UserError(f"{out}: the page cannot be written there ({error.strerror})") from None
    return notes


def _differences(videos: Videos) -> list[str]:
    """Obvious differences of two videos: size and length. Raises UserError: unreadable, or no sound."""
    infos = []
    for path in (videos.a, videos.b):
        infos.append(VideoReader(path).info)
        if not infos[-1].has_audio:
            raise UserError(f"{path} has no sound; it is needed to judge the lips by")
    (one, other), notes = infos, []
    sizes = [f"{info.width}x{info.height}" for info in infos]
    if sizes[0] != sizes[1]:
        notes.append(f"{videos.name}: {sizes[0]} and {sizes[1]} pixels; whoever sees that knows the sides")
    if one.seconds and other.seconds and abs(one.seconds - other.seconds) > SLACK:
        lengths = f"{float(one.seconds):.2f} and {float(other.seconds):.2f}"
        notes.append(f"{videos.name}: {lengths} s long; whoever sees that knows the sides")
    return notes


def _key(a: Path, b: Path, seed: int, trials: Sequence[Trial], faces: bool) -> dict[str, object]:
    content: dict[str, object] = {
        "format": FORMAT,
        "version": VERSION,
        "a": str(a),
        "b": str(b),
        "seed": seed,
        "questions": QUESTIONS | ({IDENTITY: IDENTITY_BESIDE_FACE} if faces else {}),
        "trials": [{"name": t.videos.name, "left": "a" if t.a_is_left else "b"} for t in trials],
    }
    # Answers name their page.
    return content | {"page": hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]}


def _write(
    folder: Path, tree: dict[str, object], trials: Sequence[Trial], rng: random.Random, progress: Progress
) -> None:
    (folder / "videos").mkdir(parents=True)
    names = [f"videos/{number:08x}" for number in rng.sample(range(1 << 32), 3 * len(trials))]
    shown = []
    for number, trial in enumerate(trials):
        progress("videos", number, len(trials))
        videos, left, right = trial.videos, *names[3 * number : 3 * number + 2]
        files = [f"{left}.mp4", f"{right}.mp4"]
        sides = (videos.a, videos.b) if trial.a_is_left else (videos.b, videos.a)
        for source, file in zip(sides, files, strict=True):
            _copy_video(source, folder / file, sound=True)
        if videos.face is not None:
            files.append(_copy_face(videos.face, folder, names[3 * number + 2]))
        shown.append(files)
    study = json.dumps({"page": tree["page"], "questions": tree["questions"], "trials": shown}, indent=1)
    page = TEMPLATE.read_text(encoding="utf-8").replace("@STUDY@", study.replace("<", "\\u003c"))
    write_whole(folder / "index.html", page.encode())
    for path in sorted(folder.rglob("*")):
        os.utime(path, (DATE, DATE))
    progress("videos", len(trials), len(trials))


def _copy_video(source: Path, target: Path, sound: bool) -> None:
    """Recode a video by one codec that browsers play, without metadata that would reveal its model."""
    reader = VideoReader(source, planes=False)
    info = replace(reader.info, color=Color(), time_base=TIME_BASE)
    with VideoWriter(target, info, source if sound else None, recode_audio=True) as writer:
        for frame in reader:
            writer.write(frame)


def _copy_face(source: Path, folder: Path, name: str) -> str:
    if source.suffix.lower() in PICTURES:
        Image.fromarray(read_picture(source)[0]).save(folder / f"{name}.jpg", quality=95)
        return f"{name}.jpg"
    _copy_video(source, folder / f"{name}.mp4", sound=False)
    return f"{name}.mp4"
