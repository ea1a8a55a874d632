"""A table of who says what when: subtitles (.srt), or a .csv with columns start, end, text, audio, face."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from moditalker.errors import UserError
from moditalker.features.face.tracker import Choice
from moditalker.jobs import spreadsheets
from moditalker.jobs.files import inside
from moditalker.media import tts
from moditalker.talker.options import parse_choice

MAX_BYTES = 4 << 20  # of a table
MAX_LINES = 10_000
COLUMNS = ("start", "end", "text", "audio", "face", "voice", "lang")
_TIME = re.compile(r"(?:(?:(\d{1,2}):)?(\d{1,2}):)?(\d{1,6}(?:[.,]\d{1,9})?)")
_ARROW = re.compile(r"\s*(\S+)\s+-->\s+(\S+).*")
_TAG = re.compile(r"<[^<>]{0,100}>|\{\\[^{}]{0,100}\}")


@dataclass(frozen=True)
class Line:
    """What is said from `start` to `end`, seconds (None: as long as it takes): a text, or a sound.

    face: who says it, as for `Options.choose`, and voice, lang: of a text; None and "": as the options say.
    """

    start: Fraction
    end: Fraction | None = None
    text: str = ""
    audio: Path | None = None
    face: Choice | None = None
    voice: str = ""
    lang: str = ""


def read_lines(path: str | Path) -> list[Line]:
    """The lines of a .srt or .csv file, by time; sounds in it lie in the table's own folder.

    Raises:
        UserError: a file or a line that cannot be used.
    """
    path = Path(path)
    readers = {".srt": _srt, ".csv": _csv}
    if (reader := readers.get(path.suffix.lower())) is None:
        raise UserError(f"{path}: lines come from a .srt or .csv file; give it one of these endings")
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"{path}: {size} bytes; a table may have {MAX_BYTES}: cut it into several")
        text = spreadsheets.decoded(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the table of lines") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error.reason}); save it as one") from error
    lines = reader(path, text)
    if not lines:
        raise UserError(f"{path}: there is no line in it; give at least one with its start and its text")
    if len(lines) > MAX_LINES:
        raise UserError(f"{path}: {len(lines)} lines; at most {MAX_LINES} are taken: cut it into several")
    return sorted(lines, key=lambda line: line.start)


def seconds(text: str) -> Fraction:
    """A time: seconds, MM:SS or HH:MM:SS, with a decimal point or comma. Raises ValueError."""
    if (found := _TIME.fullmatch(text.strip())) is None:
        raise ValueError(text)
    hours, minutes, rest = found.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + Fraction(rest.replace(",", "."))


def _line(path: Path, place: str, row: dict[str, str]) -> Line:
    try:
        start = seconds(row.get("start", ""))
        end = seconds(row["end"]) if row.get("end", "").strip() else None
        if end is not None and end <= start:
            raise ValueError(row["end"])
    except ValueError as error:
        raise UserError(
            f"{path}, {place}: {str(error)[:40]!r} is no time; start and end are seconds or HH:MM:SS.mmm, "
            "and the end comes after the start"
        ) from None
    text, audio = row.get("text", "").strip(), row.get("audio", "").strip()
    if bool(text) == bool(audio):
        raise UserError(f"{path}, {place}: a line has a text or an audio; give one of the two")
    if len(text) > tts.MAX_CHARACTERS:
        raise UserError(f"{path}, {place}: {len(text)} characters; at most {tts.MAX_CHARACTERS} are spoken")
    file = None
    if audio:
        folder = path.absolute().parent
        file = folder / audio
        if "\0" in audio or not inside(file, folder):
            raise UserError(f"{path}, {place}: {audio[:60]!r} is not in the table's folder; put it there")
    try:
        face = parse_choice(row["face"].strip()) if row.get("face", "").strip() else None
    except UserError as error:
        raise UserError(f"{path}, {place}: {error}") from error
    return Line(start, end, text, file, face, row.get("voice", "").strip(), row.get("lang", "").strip())


def _csv(path: Path, text: str) -> list[Line]:
    separator, table = spreadsheets.divided(text)
    reader = csv.DictReader(io.StringIO(table, newline=""), strict=True, delimiter=separator)
    try:
        reader.fieldnames = names = [spreadsheets.column(name) for name in reader.fieldnames or []]
        if wrong := [n for n in names if n not in COLUMNS or names.count(n) > 1]:
            raise UserError(f"{path}: column {wrong[0][:40]!r}; once each there are {', '.join(COLUMNS)}")
        lines = []
        for row in reader:
            if None in row:
                raise UserError(f"{path}, line {reader.line_num}: more values than columns; quote commas")
            if any(row.values()):
                given = {key: value or "" for key, value in row.items()}
                lines.append(_line(path, f"line {reader.line_num}", given))
            if len(lines) > MAX_LINES:
                break
        return lines
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is not CSV ({error})") from error


def _srt(path: Path, text: str) -> list[Line]:
    lines = []
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        rows = block.strip().split("\n")
        at = next((i for i, row in enumerate(rows[:2]) if "-->" in row), None)
        if at is None:
            if block.strip():
                raise UserError(
                    f"{path}: {rows[0][:40]!r} has no time; each subtitle has START --> END above it"
                )
            continue
        found = _ARROW.fullmatch(rows[at])
        start, end = found.groups() if found else (rows[at], "")
        said = " ".join(_TAG.sub("", " ".join(rows[at + 1 :])).split())
        if said:
            lines.append(
                _line(path, f"subtitle {rows[at][:40]!r}", {"start": start, "end": end, "text": said})
            )
        if len(lines) > MAX_LINES:
            break
    return lines
