"""Learning curves of runs as a picture for the lab book: validation figures over steps, a panel a run.

    python tools/learning_curves.py docs/images/learning.svg "MToV, dB=runs/mtov:s1,s32" "AToM=runs/atom:lips"

A panel is TITLE=RUN:KEY,KEY; the keys are those of the validation lines in RUN/log.jsonl.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 280, 46, 70, 28, 34
COLOURS = ("#1b6ca8", "#c8553d", "#3b8b5a", "#8a5a9e", "#b8860b", "#4a4a4a", "#2aa198", "#a05070")


@dataclass(frozen=True)
class Panel:
    """One run: its title, and the points (step, value) of each figure."""

    title: str
    lines: dict[str, list[tuple[int, float]]]


def read_panel(text: str) -> Panel:
    """TITLE=RUN:KEY,KEY -> what the run's log has of the keys."""
    title, _, place = text.partition("=")
    run, _, keys = place.rpartition(":")
    records = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
    lines = {key: [(r["step"], r[key]) for r in records if key in r] for key in keys.split(",")}
    for key, points in lines.items():
        if not points:
            raise SystemExit(f"{run}: no line of log.jsonl has {key!r}")
    return Panel(title, lines)


def draw(panel: Panel) -> str:
    """The panel as SVG elements, its corner at (0, 0)."""
    points = [point for line in panel.lines.values() for point in line]
    last = max(step for step, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def place(step: float, value: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * step / last,
            TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low),
        )

    parts = [f'<text x="{LEFT}" y="16" class="title">{escape(panel.title)}</text>']
    for i in range(5):
        value = low + (high - low) * i / 4
        x, y = place(0, value)
        parts.append(f'<line x1="{x}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        x, _ = place(last * i / 4, low)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 14}" text-anchor="middle">{round(last * i / 4)}</text>')
    free = -1e9  # labels must not lie over each other
    ends = sorted(panel.lines, key=lambda key: place(*panel.lines[key][-1])[1])
    colours = dict(zip(panel.lines, COLOURS * len(panel.lines), strict=False))
    for key in ends:
        line, colour = panel.lines[key], colours[key]
        path = " L".join("{:.1f} {:.1f}".format(*place(*point)) for point in line)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        x, y = place(*line[-1])
        free = max(y + 4, free + 12)
        parts.append(f'<text x="{x + 6:.1f}" y="{free:.1f}" fill="{colour}">{escape(key)}</text>')
    return "".join(parts)


def picture(panels: list[Panel]) -> str:
    """All panels side by side, as an SVG file."""
    groups = [f'<g transform="translate({i * WIDTH},0)">{draw(panel)}</g>' for i, panel in enumerate(panels)]
    size = f'width="{WIDTH * len(panels)}" height="{HEIGHT}"'
    style = "text{font:11px sans-serif}.title{font-weight:bold;font-size:13px}.grid{stroke:#ddd}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>'
    return f'{head}<rect width="100%" height="100%" fill="#fff"/>{"".join(groups)}</svg>\n'


if __name__ == "__main__":
    out, *wanted = sys.argv[1:]
    Path(out).write_text(picture([read_panel(text) for text in wanted]), encoding="utf-8")
