"""`moditalker evaluate benchmark`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import Model, progress_bar
from moditalker.cli.evaluate import evaluate
from moditalker.errors import UserError


@evaluate.command()
def benchmark(
    data: Annotated[Path, typer.Option(help="Videos of people speaking, in a folder for each person.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of videos, reports and tables.")],
    split: Annotated[
        Path | None, typer.Option(help='JSON with lists of "person/clip.ext"; else all videos count.')
    ] = None,
    part: Annotated[str, typer.Option(help="Which of the split's lists.")] = "val",
    clips: Annotated[int, typer.Option(min=1, max=1000, help="At most so many clips of each person.")] = 4,
    metrics: Annotated[str, typer.Option(help="Names or groups with commas between them, or all.")] = "all",
    pairings: Annotated[int, typer.Option(min=1, help="Number of other voices for each face.")] = 1,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WEIGHTS[,KEY=VALUE...]",
            help="Another model with rows of its own: a shipped one's name, a folder or a file of AToM's or "
            "the video stage's weights, and settings other than theirs. May be repeated.",
        ),
    ] = None,
    alignments: Annotated[
        Path | None,
        typer.Option(
            help="Folder with what each clip says, for the grids: person/clip.align (GRID's) or .txt "
            "(lines of start, end, word; seconds)."
        ),
    ] = None,
    model: Model = "tiny",
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Videos at a time, a process each; by default one a processor."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="Seconds used of each clip.")] = 2.0,
    away: Annotated[
        float,
        typer.Option(
            min=0,
            max=60,
            help="Where the real landmarks drive a video: seconds by which the frames that it is made of are "
            "away from the one that is made.",
        ),
    ] = 1.0,
    sets: Annotated[
        str,
        typer.Option(
            help="Which sets, names with commas between them, or all. A name that is not known gets the list."
        ),
    ] = "all",
    versions: Annotated[
        bool | None,
        typer.Option(
            "--versions/--no-versions",
            help="Rows of the video stage's first version and of composition alone; by default where the "
            "weights compose.",
        ),
    ] = None,
) -> None:
    """Score a model and its baselines on the same clips: the tables of docs/lab/benchmark.md.

    Videos driven by their own sound, another person's, silence and their own landmarks; a linear AToM,
    the source's mouth and any other models beside them. self.png and cross.png show them frame by frame,
    with the words that are said. Called again, it makes and measures only what is missing.

    Example: moditalker evaluate benchmark --data grid --split split.json --out runs/benchmark --workers 2
    """
    from moditalker.evaluate.benchmark import (
        choose_clips,
        choose_sets,
        plan,
        run,
        write_grids,
        write_manifests,
        write_table,
    )
    from moditalker.evaluate.competitors import keep_or_refuse, read_competitors
    from moditalker.evaluate.competitors import versions as versions_of
    from moditalker.evaluate.grids import find_words
    from moditalker.evaluate.measures import choose
    from moditalker.evaluate.report import write_report
    from moditalker.evaluate.run import available, evaluate_sets

    names, chosen = choose(metrics), choose_clips(data, split, part, clips)
    words = {} if alignments is None else find_words(alignments, [clip.path for clip in chosen])
    others = read_competitors(also or ())
    if versions is not False:
        try:
            others += versions_of(model)
        except UserError:
            if versions:
                raise
    planned = choose_sets(plan(chosen, out, pairings, others, seconds, away), sets)
    keep_or_refuse(others, model, out, {"seconds": seconds, "away": away})
    workers = workers or os.cpu_count() or 1
    settings, _ = available(names, seconds, True)
    folders = {name: out / name for name in planned}

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with progress_bar("videos") as progress:
        failures = run(planned, folders, settings, model, workers, progress, say, others)
    for name, sentence in failures.items():
        say(f"{name}: {sentence}")
    write_manifests(planned, out)
    pairs = {folders[name]: one.pairs for name, one in planned.items()}
    found = evaluate_sets(pairs, names, seconds, workers=workers)  # those that could not be measured, again
    results = {name: found[folders[name]] for name in planned}
    for name, one in results.items():
        write_report(one, folders[name])
    about: dict[str, object] = {
        "model": model,
        "clips": [clip.name for clip in chosen],
        "also": list(also or ()),
    }
    about |= {"seconds": seconds, "away": away}
    write_table(planned, results, out, about)
    for name, sentence in (undrawn := write_grids(planned, out, words)).items():
        print(f"{name}: {sentence}", file=sys.stderr)
    print(f"{out / 'benchmark.md'}: {len(chosen)} clips, {len(planned)} sets")
    if failures or undrawn or any(one.failed for one in results.values()):
        raise typer.Exit(1)
