"""`moditalker evaluate` and `moditalker evaluate pairs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import MEASURE, app, progress_bar

evaluate = typer.Typer(
    help="Judge videos and models: pairs of videos, a benchmark, speed, a study with people.",
    no_args_is_help=True,
)
app.add_typer(evaluate, name="evaluate", rich_help_panel=MEASURE)


@evaluate.command()
def pairs(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS|RUN",
            help="A folder with reference/ and generated/, a manifest (.jsonl, .csv), or its folder.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="REPORT", help="Folder of the report.")],
    metrics: Annotated[str, typer.Option(help="Names or groups with commas between them, or all.")] = "all",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Videos at a time, a process each.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.2, max=600, help="Seconds measured of each video.")] = 30.0,
    as_is: Annotated[
        bool,
        typer.Option("--as-is", help="Measure the files unchanged, without recoding them first."),
    ] = False,
) -> None:
    """Judge generated videos by real ones: figures per video, means with intervals, a page with pictures.

    Writes report.json, report.md and report.html. Called again, it measures only what is new. Exit code
    1 if some videos could not be measured; the report says why.

    Example: moditalker evaluate pairs videos --out report --workers 2
    """
    from moditalker.evaluate.measures import choose
    from moditalker.evaluate.pairs import read_pairs
    from moditalker.evaluate.report import write_report
    from moditalker.evaluate.run import evaluate as run

    listed, names = read_pairs(source), choose(metrics)
    with progress_bar("videos") as progress:
        results = run(listed, out, names, seconds, not as_is, workers, progress)
    write_report(results, out)
    for name, sentence in results.missing.items():
        print(f"{name}: not measured; {sentence}", file=sys.stderr)
    for video in results.videos:
        if "error" in video:
            print(f"{video['name']}: {video['error']}", file=sys.stderr)
    print(f"{out / 'report.html'}: {len(listed) - results.failed} of {len(listed)} videos")
    if results.failed:
        raise typer.Exit(1)
