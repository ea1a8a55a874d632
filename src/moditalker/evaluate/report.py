"""Writes results: report.json for programs, report.md with tables, report.html with pictures."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from moditalker import __version__
from moditalker.evaluate.measures import MEASURES
from moditalker.evaluate.pictures import curves
from moditalker.evaluate.run import Results, Summary, summaries
from moditalker.evaluate.sets import SETS
from moditalker.jobs.files import write_whole

FORMAT, VERSION = "moditalker-evaluation", 1
CODEC = "H.264 4:2:0, CRF 18, one thread"
NOTE = "Means over videos; in brackets 95 % bootstrap intervals of the mean over videos (10 000 resamples)."


def write_report(results: Results, out: Path) -> None:
    """Write report.json, report.md, report.html and pictures/ into the folder, each whole or not at all."""
    found = summaries(results)
    order = worst_first(results)
    pictures = out / "pictures"
    pictures.mkdir(exist_ok=True)
    for number, index in enumerate(order):
        key = results.videos[index].get("key")
        if key is not None:
            shutil.copyfile(out / "videos" / f"{key}.jpg", pictures / f"{number:04d}.jpg")
    write_whole(out / "report.json", (json.dumps(as_json(results, found), indent=1) + "\n").encode())
    write_whole(out / "report.md", as_markdown(results, found).encode())
    write_whole(out / "report.html", as_html(results, found, order).encode())


def worst_first(results: Results) -> list[int]:
    """Order the videos: failed ones, then by mean rank over the metrics that all of them have."""
    good = [i for i, video in enumerate(results.videos) if "key" in video]
    ranks = dict.fromkeys(good, 0)
    for name in results.settings.metrics:
        if name in MEASURES and all(results.videos[i]["values"].get(name) is not None for i in good):
            measure = MEASURES[name]
            badness = {i: measure.badness(float(results.videos[i]["values"][name])) for i in good}
            for i in good:
                ranks[i] += sum(badness[i] > other for other in badness.values())
    failed = [i for i in range(len(results.videos)) if i not in ranks]
    return failed + sorted(good, key=lambda i: -ranks[i])


def as_json(results: Results, found: dict[str, Summary]) -> dict[str, Any]:
    """Everything, as plain JSON; infinite values are the texts "inf" and "-inf"."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "moditalker": __version__,
        "settings": asdict(results.settings) | {"codec": CODEC if results.settings.recode else None},
        "metrics": {
            name: {key: getattr(MEASURES[name], key) for key in ("title", "unit", "better", "about")}
            for name in results.settings.metrics
            if name in MEASURES
        },
        "missing_weights": results.missing,
        "summary": {name: {k: plain(v) for k, v in asdict(one).items()} for name, one in found.items()},
        "sets": results.sets,
        "videos": results.videos,
    }


def plain(value: float) -> float | str | None:
    """Write a number for JSON, which has no infinity."""
    return value if math.isfinite(value) else (None if math.isnan(value) else str(value))


def show(value: float | None) -> str:
    """Round to three or four significant digits."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _unit(name: str) -> str:
    return f"{MEASURES[name].title} ({unit})" if (unit := MEASURES[name].unit) else MEASURES[name].title


def as_markdown(results: Results, found: dict[str, Summary]) -> str:
    """Write tables: metrics over all videos, distances of sets, failures, missing weights, each video."""
    lines = ["# Evaluation", ""]
    lines += [f"{len(results.videos) - results.failed} of {len(results.videos)} videos. {NOTE}", ""]
    lines += ["| metric | better | mean | 95 % | median | videos |", "|---|---|---|---|---|---|"]
    for name, one in found.items():
        interval = f"{show(one.low)} to {show(one.high)}"
        row = (
            _unit(name),
            MEASURES[name].better,
            show(one.mean),
            interval,
            show(one.median),
            str(one.videos),
        )
        lines.append(f"| {' | '.join(row)} |")
    if results.sets:
        lines += ["", "| all videos together | value |", "|---|---|"]
        lines += [f"| {SETS[name].title} | {show(value)} |" for name, value in results.sets.items()]
    if results.missing:
        lines += ["", "Not measured, since weights are missing:", ""]
        lines += [f"- {name}: {sentence}" for name, sentence in results.missing.items()]
    if failures := [video for video in results.videos if "error" in video]:
        lines += ["", "Videos without figures:", ""]
        lines += [f"- {_cell(video['name'])}: {_cell(video['error'])}" for video in failures]
    lines += ["", f"| video | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    for video in results.videos:
        if "values" in video:
            cells = [show(_number(video["values"].get(name))) for name in found]
            lines.append(f"| {_cell(video['name'])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _number(value: float | str | None) -> float | None:
    return None if value is None else float(value)


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color:
#222 } table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .2em .8em; text-align: right }
tr > :first-child { text-align: left } tr { border-bottom: 1px solid #ddd } small, text { color: #666 }
section { border-top: 1px solid #bbb; margin-top: 2em } img { max-width: 100%; display: block } dl {
display: flex; flex-wrap: wrap; gap: .1em 1.4em; margin: .5em 0 } dt { color: #666 } dd { margin: 0 .4em 0 0
} svg { max-width: 100%; height: auto } svg text { font-size: 11px; fill: #888 } svg .grid { stroke: #eee }
svg path { fill: none; stroke-width: 1.5 } .line0 { stroke: #c33; stroke-width: 2.5 } .line1 { stroke: #333
} .line2 { stroke: #9bd } .error { color: #a00 }
"""


def as_html(results: Results, found: dict[str, Summary], order: list[int]) -> str:
    """Write a page next to pictures/: the summary, then videos with pictures and curves, the worst first."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body><h1>Evaluation</h1>",
        f"<p>{len(results.videos) - results.failed} of {len(results.videos)} videos. {escape(NOTE)} ",
        f"Both sides went through {CODEC}.</p>" if results.settings.recode else "Files unchanged.</p>",
        "<table><tr><th>metric<th>better<th>mean<th>95 %<th>median<th>videos<th>",
    ]
    for name, one in found.items():
        cells = (
            MEASURES[name].better,
            show(one.mean),
            f"{show(one.low)} to {show(one.high)}",
            show(one.median),
        )
        about = f"<small>{escape(MEASURES[name].about)}</small>"
        parts.append(f"<tr><td>{_unit(name)}<td>{'<td>'.join(cells)}<td>{one.videos}<td>{about}")
    for name, value in results.sets.items():
        about = f"<small>{escape(SETS[name].about)}</small>"
        parts.append(f"<tr><td>{SETS[name].title}<td>lower<td>{show(value)}<td><td><td><td>{about}")
    parts.append("</table>")
    for name, sentence in results.missing.items():
        parts.append(f'<p class="error">{name} was not measured: {escape(sentence)}</p>')
    parts.append("<h2>Videos, the worst first</h2>")
    parts += [_section(results.videos[index], number) for number, index in enumerate(order)]
    return "\n".join([*parts, "</body></html>", ""])


def _section(video: dict[str, Any], number: int) -> str:
    name = escape(video["name"])
    if "error" in video:
        return f'<section><h3>{name}</h3><p class="error">{escape(video["error"])}</p></section>'
    figures = "".join(
        f"<div><dt>{_unit(key)}</dt><dd>{show(_number(value))}</dd></div>"
        for key, value in video["values"].items()
        if value is not None
    )
    reasons = "; ".join(f"{key}: {escape(reason)}" for key, reason in video["reasons"].items())
    tracks = video["lip_opening"]
    lines = ", ".join(
        f'<span style="color:{colour}">{escape(track)}</span>'
        for track, colour in zip(tracks, _COLOURS, strict=False)
    )
    sheet = (
        f'<img src="pictures/{number:04d}.jpg" alt="frames of {name}: real, generated, difference times 4">'
    )
    return (
        f"<section><h3>{name}</h3>{sheet}<dl>{figures}</dl><p>lip opening: {lines}</p>"
        + curves(tracks, video["fps"])
        + (f"<p><small>not measured: {reasons}</small></p>" if reasons else "")
        + "</section>"
    )


_COLOURS = ("#c33", "#333", "#69a")
