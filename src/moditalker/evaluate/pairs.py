"""Reads pairs of videos to judge from folders and manifests."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from moditalker.errors import UserError
from moditalker.jobs import spreadsheets
from moditalker.jobs.files import write_whole

VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"}
MANIFESTS = ("pairs.jsonl", "pairs.csv")  # names in the folder of a run
MAX_BYTES, MAX_PAIRS = 64 << 20, 100_000  # limits of a manifest


@dataclass(frozen=True)
class Pair:
    """A generated video and the real ones that it is compared with.

    name: how the report calls it. generated: the file to judge. reference: the real video that it should
    equal (self-driven). face: the video or picture whose face it shows; by default the reference. speech:
    the real video of the speech that drives it; by default the reference. At least one of the last three is
    given.
    """

    name: str
    generated: Path
    reference: Path | None = None
    face: Path | None = None
    speech: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All its files, each once."""
        paths = (self.generated, self.reference, self.face, self.speech)
        return list(dict.fromkeys(path for path in paths if path is not None))


def read_pairs(source: Path) -> list[Pair]:
    """Read pairs from a manifest (.jsonl, .csv), its folder, or a folder with reference/ and generated/.

    A manifest has a line a pair with the fields of `Pair`; its paths are relative to its folder. In a
    folder with reference/ and generated/, files belong together by name, whatever their endings; a
    reference without a generated video is a pair whose file is missing, which the report will say. Raises
    UserError.
    """
    if source.is_file():
        return _read_manifest(source)
    if not source.is_dir():
        raise UserError(f"{source} does not exist; give a folder of pairs or a manifest (.jsonl, .csv)")
    for name in MANIFESTS:
        if (source / name).is_file():
            return _read_manifest(source / name)
    folders = source / "reference", source / "generated"
    if not all(folder.is_dir() for folder in folders):
        raise UserError(
            f"{source} has neither {' nor '.join(MANIFESTS)} nor the folders reference and generated; "
            "give one of these"
        )
    real, made = (videos_in(folder) for folder in folders)
    if not real and not made:
        raise UserError(f"{source}: reference and generated hold no video ({', '.join(sorted(VIDEOS))})")
    return [
        Pair(stem, made.get(stem, folders[1] / f"{stem}.mp4"), real.get(stem, folders[0] / f"{stem}.mp4"))
        for stem in sorted(real.keys() | made.keys())
    ]


def videos_in(folder: Path, also: Collection[str] = ()) -> dict[str, Path]:
    """Find the videos of a folder by name without ending, and files with the endings in `also`.

    Raises UserError if two have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in {*VIDEOS, *also} and path.is_file():
            if path.stem in found:
                raise UserError(f"{path} and {found[path.stem].name}: two videos of one name; rename one")
            found[path.stem] = path
    return found


def read_bounded(path: Path, most: int, why: str) -> str:
    """Read a text file of limited size, with its own line ends; why: the end of the error's sentence.

    Raises UserError: larger, or no text.
    """
    try:
        if path.stat().st_size > most:
            raise UserError(f"{path} has more than {most >> 20} MiB{why}")
        return spreadsheets.decoded(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error})") from None


def _read_manifest(path: Path) -> list[Pair]:
    text = read_bounded(path, MAX_BYTES, "; split it")
    rows = _table(text) if path.suffix.lower() == ".csv" else _json_lines(path, text)
    if not rows:
        raise UserError(f"{path} holds no pair; it has a line each, with generated and reference")
    if len(rows) > MAX_PAIRS:
        raise UserError(f"{path} holds {len(rows)} pairs; {MAX_PAIRS} are the most: split it")
    pairs = [_pair(path, number, row) for number, row in enumerate(rows, 1)]
    if len({pair.name for pair in pairs}) < len(pairs):
        raise UserError(f"{path}: two pairs have one name; give each its own")
    return pairs


def _table(text: str) -> list[dict[str, object]]:
    separator, text = spreadsheets.divided(text)
    reader = csv.DictReader(text.splitlines(), delimiter=separator)
    reader.fieldnames = [spreadsheets.column(name) for name in reader.fieldnames or []]
    return [dict(row) for row in reader if any(row.values())]


def _json_lines(path: Path, text: str) -> list[dict[str, object]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                raise UserError(f"{path}, line {number}: this is not JSON; write one object a line") from None
    return rows


def _pair(path: Path, number: int, row: object) -> Pair:
    known = [field.name for field in fields(Pair)]
    where = f"{path}, pair {number}"
    if not isinstance(row, dict) or not all(isinstance(v, str) or v is None for v in row.values()):
        raise UserError(f"{where}: texts under the names {', '.join(known)} are expected")
    if unknown := [str(key) for key in row if key not in known]:
        raise UserError(f"{where}: {', '.join(unknown)} is not known; there are {', '.join(known)}")
    texts = {key: value for key, value in row.items() if value}
    if "generated" not in texts or len(texts.keys() & {"reference", "face", "speech"}) == 0:
        raise UserError(f"{where}: generated is needed, and one of reference, face, speech")
    files = {key: path.parent / value for key, value in texts.items() if key != "name"}
    return Pair(str(texts.get("name") or f"{number:04d} {files['generated'].stem}"), **files)


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """Write a manifest (.jsonl), whose paths are relative to its folder; absolute ones elsewhere stay so."""
    lines = []
    for pair in pairs:
        row = {}
        for field in fields(Pair):
            value = getattr(pair, field.name)
            if isinstance(value, Path):
                moves = value.is_relative_to(path.parent) or not value.is_absolute()
                value = os.path.relpath(value, path.parent) if moves else str(value)
            if value is not None:
                row[field.name] = value
        lines.append(json.dumps(row))
    write_whole(path, ("\n".join(lines) + "\n").encode())
