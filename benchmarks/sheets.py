"""Contact sheets of mouths to look at, real and by several models, at 100 % and 300 %; one for each face.

Videos that are there, as the manifests or folders of pairs that `moditalker evaluate` and `benchmark` have:

    python benchmarks/sheets.py --row "version 1=runs/dev/landmarks-first-version.jsonl" \\
        --row "new=runs/dev/landmarks.jsonl" --out runs/sheets

Pictures, which are made to speak first (OUT/videos; OUT/NAME.jsonl is for `moditalker evaluate`):

    python benchmarks/sheets.py --pictures ../shared/data/pictures --voice speech.wav \\
        --model "version 1=tiny,compose.enabled=false" --model new=tiny --out runs/sheets
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from moditalker.errors import UserError
from moditalker.evaluate.competitors import Competitor, load, read_competitors
from moditalker.evaluate.pairs import Pair, read_pairs, write_pairs
from moditalker.evaluate.sheets import save_sheet, sheet_of
from moditalker.features.face.tracker import FaceTracker

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def speaking_pictures(models: Sequence[Competitor], folder: Path, voice: Path, out: Path) -> dict[str, Path]:
    """Make each picture of a folder speak by each model; manifests of what was made, by the models' names.

    Videos that are there are not made again.
    """
    pictures = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES]
    manifests = {}
    for model in models:
        talker, pairs = load(model, "tiny"), []
        for picture in pictures:
            made = out / "videos" / model.slug / f"{picture.stem}.mp4"
            made.parent.mkdir(parents=True, exist_ok=True)
            try:
                if not made.exists():
                    talker.generate(picture, voice).save(made)
                pairs.append(Pair(picture.stem, made, face=picture))
            except UserError as error:
                print(f"{model.name}: {error}")
        manifests[model.name] = out / f"{model.slug}.jsonl"
        write_pairs(manifests[model.name], pairs)
    return manifests


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", default=[], metavar="NAME=PAIRS", help="videos of a model")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=WEIGHTS[,KEY=VALUE...]")
    parser.add_argument("--pictures", type=Path, help="folder of pictures that each model makes speak")
    parser.add_argument("--voice", type=Path, help="what they say")
    parser.add_argument("--seconds", type=float, default=30.0, help="looked at of each video")
    parser.add_argument("--out", type=Path, required=True, help="folder of the sheets, NAME.jpg each")
    given = parser.parse_args(arguments)
    rows = {name: Path(path) for name, _, path in (row.partition("=") for row in given.row)}
    if given.pictures is not None:
        if given.voice is None or not given.model:
            parser.error("--pictures needs --voice and at least one --model")
        rows |= speaking_pictures(read_competitors(given.model), given.pictures, given.voice, given.out)
    if not rows:
        parser.error("give --row, or --pictures")
    sheets: dict[str, list[tuple[str, Pair]]] = {}
    for name, path in rows.items():
        for pair in read_pairs(path):
            sheets.setdefault(pair.name, []).append((name, pair))
    tracker = FaceTracker()
    for title, pairs in sheets.items():
        try:
            save_sheet(sheet_of(pairs, tracker, given.seconds), given.out / f"{title}.jpg")
        except UserError as error:
            print(f"{title}: {error}")
    print(f"{given.out}: {len(sheets)} sheets")


if __name__ == "__main__":
    main()
