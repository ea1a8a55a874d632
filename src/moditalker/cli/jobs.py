"""A jobs file: one video a row, with the options of `moditalker generate`."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import typer

from moditalker.cli.common import app
from moditalker.errors import UserError
from moditalker.jobs import spreadsheets

MAX_BYTES = 64 << 20  # of a jobs file
MAX_JOBS = 100_000
MAX_NAME = 200  # bytes of an output's name: file systems take 255, and parts and records need their endings
SET_FOR_ALL = ("files", "out", "report", "model", "device")  # of `generate`, but no column
_NAME = re.compile(r"\w[\w .,()+=@-]*")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)\..*", re.IGNORECASE)  # no files on Windows
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One video to be made.

    place: in the jobs file, for people; name: the video's file name; arguments: of `moditalker
    generate`, all but --out; inputs: the files among them; error: why it cannot be done, if that is
    known already.
    """

    place: str
    name: str
    arguments: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()
    error: str = ""


def read_jobs(path: Path) -> list[Job]:
    """The jobs of a .csv or .jsonl file; paths in it start from its own folder.

    A row that cannot be used is a job with an error.

    Raises:
        UserError: the file as a whole cannot be used.
    """
    kinds = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in kinds:
        raise UserError(f"{path}: jobs come from a .csv or .jsonl file; give it one of these endings")
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"{path}: {size} bytes; a jobs file may have {MAX_BYTES}: cut it into several")
        text = spreadsheets.decoded(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the file with the jobs") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error}); save it as one") from error
    jobs, names = list[Job](), dict[str, str]()
    for place, row in kinds[path.suffix.lower()](path, text):
        if len(jobs) == MAX_JOBS:
            raise UserError(f"{path}: more than {MAX_JOBS} jobs; cut the file into several")
        try:
            job = _job(place, row, path.absolute().parent)
            key = unicodedata.normalize("NFC", job.name).casefold()  # some file systems see no difference
            if key in names:
                raise UserError(f"name {job.name!r} is that of {names[key]} already; give each job its own")
            names[key] = place
        except UserError as error:
            given = row.get("name") if isinstance(row, dict) else None
            job = Job(place, str(given)[:MAX_NAME] if given else "", error=str(error))
        jobs.append(job)
    if not jobs:
        raise UserError(f"{path}: there is no job in it; give one row for each video, with face and audio")
    return jobs


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    separator, table = spreadsheets.divided(text)
    above = text.count("\n") - table.count("\n")  # lines before the header
    reader = csv.DictReader(io.StringIO(table, newline=""), strict=True, delimiter=separator)
    try:
        reader.fieldnames = columns = [spreadsheets.column(name) for name in reader.fieldnames or []]
        known = {"name", *_options()}
        for column in columns:
            if column not in known and column:  # office programs save columns without any cell, too
                raise UserError(
                    f"{path}: column {column!r} is not known; there are {', '.join(sorted(known))}"
                )
            if columns.count(column) > 1 and column:
                raise UserError(f"{path}: there are two columns {column!r}; keep one of them")
        numbers = [name for name, option in _options().items() if isinstance(option.default, float)]
        for row in reader:
            if None not in row and not any(row.values()):
                continue  # as office programs save below a table
            if "" in row and not row[""]:
                del row[""]
            for name in numbers:
                if row.get(name):
                    row[name] = spreadsheets.number(row[name], separator)
            yield f"line {reader.line_num + above}", row
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num + above} is not CSV ({error})") from error


def _jsonl_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield f"line {number}", row


@cache
def generate_command() -> Any:
    """`moditalker generate`, as Typer calls it."""
    return cast(Any, typer.main.get_command(app)).commands["generate"]


@cache
def _options() -> dict[str, Any]:
    """Its options that a job may have, by name."""
    return {option.name: option for option in generate_command().params if option.name not in SET_FOR_ALL}


def _job(place: str, row: Any, folder: Path) -> Job:
    if not isinstance(row, dict):
        raise UserError('not one JSON object, as in {"face": "person.mp4", "audio": "speech.wav"}')
    if None in row:
        raise UserError("more values than there are columns; put a value that holds commas into quotes")
    given = {key: value for key, value in row.items() if value is not None and value != ""}
    name, options = given.pop("name", None), _options()
    for key in given:
        if key not in options:
            raise UserError(f"{key!r} is not known; there are {', '.join(sorted(options))}")
    for key in ("face", "audio"):
        if key not in given and not (key == "audio" and "text" in given):
            raise UserError(f"there is no {key}; give the file's name")
    inputs = {}
    for key, value in _parsed(given).items():
        perhaps = "FILE" in str(options[key].metavar)  # or a word, as for --head
        if isinstance(value, Path) or (perhaps and (folder / str(value)).is_file()):
            inputs[key] = folder / str(value)
    arguments = _arguments(given | {key: str(value) for key, value in inputs.items()})
    if name is None:
        name = "-".join(
            re.sub(r"\W+", "_", inputs[key].stem if key in inputs else "text") for key in ("face", "audio")
        )
    return Job(place, _safe(name), tuple(arguments), tuple(inputs.values()))


def _arguments(given: Row) -> list[str]:
    """The values as a command line; one word an option, so that no value is read as an option."""
    words = []
    for key, value in given.items():
        option = _options()[key]
        if option.is_flag:
            text = str(value).lower()
            if text not in _YES + _NO:
                raise UserError(f"{key} {value!r}: true or false is expected")
            words += option.opts[:1] if text in _YES else option.secondary_opts[:1]
        elif "\0" in str(value):
            raise UserError(f"{key} {value!r}: holds a character that no file or text may have; take it out")
        elif isinstance(value, str | int | float):
            words.append(f"{option.opts[0]}={value}")
        else:
            raise UserError(f"{key} {value!r}: text or a number is expected")
    return words


def _parsed(given: Row) -> dict[str, Any]:
    """The values that `moditalker generate` reads from a command line."""
    try:
        parameters = (
            generate_command().make_context("generate", [*_arguments(given), "--out=unused.mp4"]).params
        )
    except typer.BadParameter as error:
        raise UserError(error.format_message()) from error
    return {key: parameters[key] for key in given}


def _safe(name: object) -> str:
    """The name of a file in the output folder, with .mp4 if it has no ending. Raises UserError."""
    from moditalker.media import FORMATS

    text = str(name)
    if not Path(text).suffix:
        text += ".mp4"
    if Path(text).suffix.lower() not in FORMATS:
        raise UserError(f"name {text!r}: a video is written as {', '.join(FORMATS)}")
    if not _NAME.fullmatch(text) or _DEVICES.fullmatch(text) or len(text.encode()) > MAX_NAME:
        raise UserError(
            f"name {text!r}: a file name without folders is expected, of letters, digits, spaces and "
            f".,()+=@-_, starting with a letter or digit, at most {MAX_NAME} bytes"
        )
    return text
