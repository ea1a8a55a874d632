"""`moditalker benchmark`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import Preset, app, progress_bar


@app.command()
def benchmark(
    data: Annotated[Path, typer.Option(help="Videos of people speaking, in a folder for each person.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of videos, reports and tables.")],
    split: Annotated[
        Path | None, typer.Option(help='JSON with lists of "person/clip.ext"; else all videos count.')
    ] = None,
    part: Annotated[str, typer.Option(help="Which of the split's lists.")] = "val",
    clips: Annotated[int, typer.Option(min=1, max=1000, help="Of each person, at most.")] = 4,
    metrics: Annotated[str, typer.Option(help="Names or groups with commas between them, or all.")] = "all",
    pairings: Annotated[int, typer.Option(min=1, help="Voices that each face is given.")] = 1,
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
    preset: Preset = "tiny",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Videos at a time, a process each.")] = 1,
) -> None:
    """Score a model and its baselines on the same clips: the tables of docs/results.md.

    Videos driven by their own sound, another person's, silence and their own landmarks; a linear AToM, the
    source's mouth and any other models beside them. self.png and cross.png show them frame by frame, with the
    words that are said. Called again, it makes and measures only what is missing.

    Example: moditalker benchmark --data grid --split grid/split.json --out runs/benchmark --workers 2
    """
    from moditalker.benchmark import choose_clips, make, plan, write_grids, write_manifests, write_table
    from moditalker.competitors import claim, read_competitors
    from moditalker.evaluate.grids import find_words
    from moditalker.evaluate.measures import choose
    from moditalker.evaluate.report import write_report
    from moditalker.evaluate.run import evaluate_sets

    names, chosen = choose(metrics), choose_clips(data, split, part, clips)
    words = {} if alignments is None else find_words(alignments, [clip.path for clip in chosen])
    others = read_competitors(also or ())
    sets = plan(chosen, out, pairings, others)
    claim(others, preset, out)
    with progress_bar("videos") as progress:
        failures = make(sets, preset, workers, progress, others)
    for name, sentence in failures.items():
        print(f"{name}: {sentence}", file=sys.stderr)
    write_manifests(sets, out)
    folders = {out / name: one.pairs for name, one in sets.items()}
    with progress_bar("videos") as progress:
        found = evaluate_sets(folders, names, workers=workers, progress=progress)
    results = {name: found[out / name] for name in sets}
    for name, one in results.items():
        write_report(one, out / name)
    about = {"preset": preset, "clips": [clip.name for clip in chosen], "also": list(also or ())}
    write_table(sets, results, out, about)
    for name, sentence in (undrawn := write_grids(sets, out, words)).items():
        print(f"{name}: {sentence}", file=sys.stderr)
    print(f"{out / 'benchmark.md'}: {len(chosen)} clips, {len(sets)} sets")
    if failures or undrawn or any(one.failed for one in results.values()):
        raise typer.Exit(1)
