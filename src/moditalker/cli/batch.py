"""`moditalker batch`."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from moditalker.cli.common import MAKE, Device, Model, On, app, printable
from moditalker.cli.generate import loaded
from moditalker.cli.jobs import Job, generate_command, read_jobs
from moditalker.errors import UserError
from moditalker.jobs.pool import work

SUMMARY = "batch.json"
STATES = ("made", "skipped", "failed", "unreached")
RECORDED = ("begun", "made", "failed")  # states of a record


@dataclass
class Entry:
    """A line of the summary. state: one of `STATES`."""

    job: str
    name: str
    state: str = "unreached"
    error: str = ""
    frames: int | None = None
    seconds: float | None = None  # that it took
    notes: list[str] = field(default_factory=list)  # what its user should know


@dataclass(frozen=True)
class Common:
    """What all jobs share. weights: names and SHA-256 of the model's files."""

    out: Path
    model: str
    device: str
    weights: dict[str, str]

    @property
    def arguments(self) -> list[str]:
        return [f"--model={self.model}", f"--device={self.device}"]


@app.command(rich_help_panel=MAKE)
def batch(
    jobs: Annotated[
        Path,
        typer.Argument(
            help="A .csv or .jsonl file. Its columns: face, audio, name (of the video), and whatever else "
            "`moditalker generate` has options for, such as seed. Paths start from the file's folder."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the videos.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes; each has its own models in memory.")] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Ray cluster that does the work: host:6379, auto, or local."),
    ] = None,
    model: Model = "tiny",
    device: On = Device.cpu,
) -> None:
    """Make many videos.

    Each video NAME gets a record NAME.json of its options and inputs. Run again, the command makes only
    videos that are missing, have failed, or have a record of other options or inputs. A failed job stops
    no other. It ends with a table, also in batch.json, and with exit code 1 if a job failed.

    Example: moditalker batch jobs.csv --out videos --workers 2
    """
    from moditalker.weights.named import model_folder, sha256

    begun, listed = time.perf_counter(), read_jobs(jobs)
    weights = {path.name: sha256(path) for path in sorted(model_folder(model).glob("*.safetensors"))}
    common = Common(out, model, device.value, weights)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--out {out}: is a file; give a folder") from None
    except OSError as error:
        raise UserError(f"{out}: the folder cannot be made ({error.strerror})") from error
    entries = {job.place: Entry(job.place, job.name) for job in listed}
    todo = [job for job in listed if _is_to_do(job, common, entries[job.place])]
    start = partial(_start, common)
    columns = (
        TextColumn("videos"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("videos", total=len(todo))
            for outcome in work(start, todo, workers, cluster, gpus=int(device == Device.cuda)):
                entry, made = entries[outcome.item.place], outcome.result
                if made is None:
                    entry.state, entry.error = "failed", outcome.error
                    if outcome.details:
                        progress.console.print(outcome.details, markup=False, highlight=False)
                    identity = _identity(outcome.item, common)
                    _record(out / outcome.item.name, identity, "failed", error=outcome.error)
                else:
                    entry.state, entry.frames = "made", made["frames"]
                    entry.seconds, entry.notes = made["seconds"]["total"], made["notes"]
                    for note in entry.notes:
                        text = f"{entry.job}: note: {printable(note)}"
                        progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
                progress.advance(bar)
    finally:
        _summarize(out, list(entries.values()), time.perf_counter() - begun)
    if any(entry.state == "failed" for entry in entries.values()):
        raise typer.Exit(1)


def _is_to_do(job: Job, common: Common, entry: Entry) -> bool:
    """Whether a job is to be done; where not, `entry` gets to know why."""
    video = common.out / job.name
    path, record = _record_path(video), _read_record(video)
    if job.error:
        entry.state, entry.error = "failed", job.error
    elif not record and (path.exists() or video.exists()):
        there = path if path.exists() else video
        entry.state = "failed"
        entry.error = f"{there} was there before, and not from a batch; move it, or choose another name"
    elif video.exists() and record.get("state") == "made" and record["job"] == _identity(job, common):
        entry.state = "skipped"
    return entry.state == "unreached"


# ------------------------------------------------------------------------------------------- in each worker


def _start(common: Common) -> Callable[[Job], dict[str, Any]]:
    talker = loaded(common.model, common.device, None)
    talker.loading_seconds = 0.0  # once for a worker, so not part of what a video takes
    return partial(_make, common)


def _make(common: Common, job: Job) -> dict[str, Any]:
    """Do a job as `moditalker generate` does; what it reports."""
    from moditalker.media import remove_parts

    video, identity = common.out / job.name, _identity(job, common)
    if _read_record(video).get("state") == "begun":
        remove_parts(video)  # of a worker that was killed
    _record(video, identity, "begun")
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        report: dict[str, Any] = generate_command().main(
            [*job.arguments, *common.arguments, f"--out={video}"], standalone_mode=False
        )
    _record(video, identity, "made", report=report)
    return report


# -------------------------------------------------------------------------------------------------- records


def _identity(job: Job, common: Common) -> dict[str, Any]:
    """What a video is made of: options, the state of the files that they name, and the model's weights."""
    files = {}
    for path in job.inputs:
        try:
            status = path.stat()
        except OSError:
            continue  # the job will say so
        files[str(path)] = [status.st_size, status.st_mtime_ns]
    arguments = [*job.arguments, *common.arguments]
    return {"arguments": arguments, "files": files, "weights_sha256": common.weights}


def _record_path(video: Path) -> Path:
    return video.with_name(f"{video.name}.json")


def _record(video: Path, identity: dict[str, Any], state: str, **more: Any) -> None:
    """Write a video's record."""
    _write(_record_path(video), {"job": identity, "state": state, **more})


def _read_record(video: Path) -> dict[str, Any]:
    """A video's record; {} where there is none."""
    try:
        record = json.loads(_record_path(video).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(record, dict) and "job" in record and record.get("state") in RECORDED
    return record if known else {}


def _write(path: Path, content: Any) -> None:
    from moditalker.jobs.files import write_whole

    try:
        write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); check rights and space") from error


def _summarize(out: Path, entries: list[Entry], seconds: float) -> None:
    """Show the table and write `SUMMARY`."""
    counts = {state: sum(entry.state == state for entry in entries) for state in STATES}
    content = {"jobs": len(entries), **counts, "seconds": round(seconds, 1)}
    _write(out / SUMMARY, content | {"videos": [asdict(entry) for entry in entries]})
    table = Table("job", "video", "result", "frames", "seconds", box=None)
    for entry in entries:
        figures = ("" if value is None else f"{value:g}" for value in (entry.frames, entry.seconds))
        table.add_row(entry.job, printable(entry.name), entry.state, *figures)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for entry in entries:
        if entry.error:
            console.print(f"{entry.job}: {printable(entry.error)}")
    totals = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    console.print(f"{out}: {totals}, in {seconds:.1f} s; {SUMMARY} says the same")
