"""`moditalker evaluate study`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from moditalker.cli.common import progress_bar
from moditalker.cli.evaluate import evaluate

study = typer.Typer(
    help="A study with people: a blind page of pairs of videos, and the score of their answers.",
    no_args_is_help=True,
)
evaluate.add_typer(study, name="study")


class Vote(StrEnum):
    """What counts as a vote."""

    answer = "answer"
    trial = "trial"
    rater = "rater"


@study.command()
def make(
    a: Annotated[Path, typer.Argument(help="Folder of one model's videos, with sound.")],
    b: Annotated[Path, typer.Argument(help="Folder of the other's; files belong together by name.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PAGE", help="Folder for the page, a new one.")],
    key: Annotated[
        Path | None, typer.Option(help="File that tells which side is which; else PAGE.key.json.")
    ] = None,
    face: Annotated[
        Path | None, typer.Option(help="Folder with a video or picture of each pair's person, by name.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of order and sides; by default a random one, which the key holds."),
    ] = None,
) -> None:
    """Make a page on which people compare two models' videos without knowing which is which.

    Zip the folder and send it: it needs no server and no network. Keep the key to yourself.

    Example: moditalker evaluate study make ours theirs --out study --face faces
    """
    from moditalker.evaluate.study.page import make_page

    key = key or out.with_name(f"{out.name}.key.json")
    with progress_bar("pairs") as progress:
        notes = make_page(a, b, out, key, face, seed, progress)
    for note in notes:
        print(note, file=sys.stderr)
    print(f"{out / 'index.html'}; {key} tells which side is which")


@study.command()
def score(
    key: Annotated[Path, typer.Argument(help="The key of the page.")],
    answers: Annotated[list[Path], typer.Argument(help="Files of answers (.csv) that visitors sent.")],
    per: Annotated[
        Vote,
        typer.Option(
            help="One vote: each answer, the majority on a pair (trial), or that of a person (rater)."
        ),
    ] = Vote.answer,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Count what people preferred: for each question wins, a sign test, and the preference with its interval.

    Example: moditalker evaluate study score study.key.json answers-1.csv answers-2.csv
    """
    from moditalker.evaluate.study import preference

    known = preference.read_key(key)
    given = preference.read_answers(answers, known)
    found = preference.count(given, known, per.value)
    if as_json:
        print(json.dumps(preference.as_json(found, given, known, per.value), indent=2))
    else:
        print(preference.as_table(found, given, known, per.value))
