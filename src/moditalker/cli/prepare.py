"""`moditalker prepare`."""

from __future__ import annotations

import os
from pathlib import Path
from reprlib import repr as short
from typing import Annotated

import typer

from moditalker.cli.common import TRAIN, Assignments, app, progress_bar


@app.command(rich_help_panel=TRAIN)
def prepare(
    videos: Annotated[Path, typer.Argument(help="Folder of videos, best with a subfolder for each speaker.")],
    out: Annotated[Path, typer.Argument(help="Folder for the dataset: shards and report.json.")],
    split: Annotated[
        str | None,
        typer.Option(metavar="FILE", help='JSON with lists "train" and "val" of videos, or "hdtf".'),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of processes; by default one for each processor.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Use the workers of this Ray cluster ('auto').")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Preset whose crops are made: tiny, live, paper or released.")
    ] = "tiny",
    assignments: Assignments = None,
) -> None:
    """Turn a folder of videos into a dataset to train on.

    It follows one face in each shot, and leaves out what is unusable; report.json says why. A run that
    was stopped resumes when it is started again. Exit code 1: the machine failed at some videos; start
    it again.

    Example: moditalker prepare videos dataset --split split.json
    """
    from moditalker import config as configuration
    from moditalker.data.dataset import REPORT
    from moditalker.data.dataset import prepare as run
    from moditalker.data.split import Split

    settings = configuration.load(preset, overrides=assignments or ())
    listed = None if split is None else Split(split)
    with progress_bar("videos") as show:
        report = run(
            videos,
            out,
            settings,
            listed,
            workers or os.cpu_count() or 1,
            cluster,
            lambda done, total: show("preparing", done, total),
        )
    totals = report["totals"]
    kept, whole = totals["kept_seconds"] / 60, totals["seconds"] / 60
    print(
        f"{out}: {totals['samples']} samples from {totals['videos']} videos, {kept:.1f} of {whole:.1f} min; "
        f"{totals['unusable']} videos unusable, {totals['failed']} failed; {out / REPORT} says why"
    )
    if listed is not None and (missing := listed.unmatched(record["video"] for record in report["videos"])):
        print(f"{split}: {len(missing)} of its entries name no video: {short(missing)}")
    if stale := report["stale"]:
        print(
            f"{len(stale)} videos were changed or went since they were prepared; their samples are the old "
            f"ones, another folder would have the new: {short(stale)}"
        )
    if totals["failed"]:
        raise typer.Exit(1)
