"""Write the figures of a benchmark into the page of results, between its two marks (docs/results.md).

python tools/write_results.py RUN/benchmark.json [PAGE]

RUN is the folder that `moditalker evaluate benchmark --out RUN` filled. The rest of the page is kept.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- written by tools/write_results.py -->", "<!-- end -->"
METRICS = (
    *("mouth_detail", "lpips_mouth", "mouth_colour", "teeth_colour", "psnr", "ssim", "lpips"),
    *("lip_correlation", "lip_amplitude", "leakage", "lse_c", "match", "seam", "flicker"),
)


def table(found: dict[str, Any], day: str) -> list[str]:
    """A row a metric, a column a set: medians over videos, of the metrics that some set has."""
    about, sets = found["about"], found["sets"]
    clips = f"{len(about['clips'])} clips of {about['seconds']:g} s"
    away = f"real landmarks take from frames {about['away']:g} s away"
    lines = [
        f"Medians over {clips}, model `{about['model']}`, {day}; {away}.",
        "",
        f"| {' | '.join(['metric', *sets])} |",
        "|---" * (len(sets) + 1) + "|",
    ]
    for name in METRICS:
        values = [(one.get(name) or {}).get("median") for one in sets.values()]
        if any(value is not None for value in values):
            cells = ["" if value is None else f"{float(value):.3g}" for value in values]
            lines.append(f"| {' | '.join([f'`{name}`', *cells])} |")
    return lines


def rewritten(page: str, lines: list[str]) -> str:
    """The page with other lines between its marks. Raises ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return "\n".join([before + BEGIN, "", *lines, "", END + after])


def main() -> None:
    given, page = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else PAGE
    day = datetime.fromtimestamp(given.stat().st_mtime, UTC).date().isoformat()
    lines = table(json.loads(given.read_text(encoding="utf-8")), day)
    page.write_text(rewritten(page.read_text(encoding="utf-8"), lines), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
