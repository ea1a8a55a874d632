"""Writes tables of a benchmark as Markdown: the paper's Table 1, each person, all figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from moditalker.evaluate.measures import MEASURES
from moditalker.evaluate.report import show
from moditalker.evaluate.run import Results, Summary, summaries
from moditalker.evaluate.sets import SETS

# Table 1 of the paper: HDTF's 98 test videos at 256 x 256, with the authors' feature networks.
PAPER_COLUMNS = ("FID", "CPBD", "PSNR", "LPIPS", "CSIM", "LMD", "LSE-D")
PAPER = {
    "Real video": (0.00, 0.43, None, None, 1.00, 0.00, 6.98),
    "Wav2Lip": (16.34, 0.35, 34.81, 0.03, 0.90, 1.43, 5.86),
    "PC-AVS": (117.85, 0.29, 28.23, 0.38, 0.35, 9.36, 7.06),
    "DreamTalk": (36.98, 0.43, 29.59, 0.20, 0.72, 2.56, 8.37),
    "AniPortrait": (37.07, 0.44, 33.86, 0.09, 0.75, 1.92, 10.36),
    "SyncTalk": (26.69, 0.37, 30.95, 0.13, 0.66, 3.58, 10.57),
    "MoDiTalker": (14.15, 0.46, 35.82, 0.01, 0.92, 1.38, 9.15),
}
COMPARABLE = (
    "The paper's rows are quoted, not measured: other videos (HDTF), another size, other feature networks "
    "and codec. Rows of this run may be compared with each other, with the paper's only in their order of "
    "size, and columns that no weights were there for (–) not at all; the Fréchet distance of AlexNet's "
    "features is no FID, and mouth-audio match no LSE-D."
)
# Our metric, its heading, and the paper's column; whole frames and pixels, as the paper has them.
TABLE_1 = (
    ("fid", "FID ↓", "FID"),
    ("frechet_alexnet", "Fréchet distance, AlexNet ↓", ""),
    ("cpbd", "CPBD ↑", "CPBD"),
    ("psnr_frame", "PSNR, frame ↑", "PSNR"),
    ("lpips_frame", "LPIPS, frame ↓", "LPIPS"),
    ("csim", "CSIM ↑", "CSIM"),
    ("lmd_mouth_px", "LMD, mouth, px ↓", "LMD"),
    ("lse_d", "LSE-D ↓", "LSE-D"),
    ("match", "mouth-audio match ↑", ""),
)
# Figures of each person in docs/lab/benchmark.md.
OF_PEOPLE = (
    *("lip_correlation", "lip_amplitude", "leakage", "silence", "match", "psnr", "psnr_first_mouth", "ssim"),
    *("lpips", "lmd_mouth", "csim", "cpbd_ratio", "seam", "flicker", "drift", "background"),
)


@dataclass(frozen=True)
class Scored:
    """A set of videos with its figures. title: what drives them; method: its name in Table 1, "" if none."""

    title: str
    results: Results
    method: str = ""


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Write a Markdown table as lines, with an empty one after it."""
    return [
        f"| {' | '.join(head)} |",
        "|---|" + "---|" * (len(head) - 1),
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
    ]


def _interval(one: Summary | None) -> str:
    return "–" if one is None else f"{show(one.mean)} ({show(one.low)} to {show(one.high)})"


def table_1(rows: Sequence[Scored]) -> list[str]:
    """Write the paper's Table 1: methods by its columns; means with 95 % intervals, then its quoted rows."""
    lines = []
    for row in (row for row in rows if row.method):
        found = summaries(row.results)
        cells = [
            show(row.results.sets.get(key)) if key in SETS else _interval(found.get(key))
            for key, _, _ in TABLE_1
        ]
        lines.append([row.method, *cells])
    for name, values in PAPER.items():
        quoted = dict(zip(PAPER_COLUMNS, values, strict=True))
        cells = ["–" if (value := quoted.get(column)) is None else f"{value:.2f}" for *_, column in TABLE_1]
        lines.append([f"{name} (paper, quoted)", *cells])
    return markdown(["own speech", *(title for _, title, _ in TABLE_1)], lines)


def people(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Group the measured videos: all, those of each face, and those of each voice if it is another person's.

    A person is the folder of a video.
    """
    groups: dict[str, list[dict[str, Any]]] = {"all": []}
    voices: dict[str, list[dict[str, Any]]] = {}
    for video in (video for video in results.videos if "values" in video):
        face = Path(video["reference"] or video["face"] or video["generated"]).parent.name
        groups["all"].append(video)
        groups.setdefault(f"face {face}", []).append(video)
        if video["speech"]:
            voices.setdefault(f"voice {Path(video['speech']).parent.name}", []).append(video)
    return dict(sorted(groups.items())) | dict(sorted(voices.items()))


def medians(results: Results) -> dict[str, dict[str, tuple[float, int]]]:
    """For each person: each metric's median over videos, and the number of videos that have it."""
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for person, videos in people(results).items():
        found[person] = {}
        for name in MEASURES:
            values = [float(v["values"][name]) for v in videos if v["values"].get(name) is not None]
            if values:
                found[person][name] = median(values), len(values)
    return found


def by_person(rows: Sequence[Scored]) -> list[str]:
    """Sets and people by metrics, medians over videos; a number in brackets if not all of n have one."""
    tables = [(row, medians(row.results)) for row in rows]
    columns = [name for name in OF_PEOPLE if any(name in of for _, table in tables for of in table.values())]
    lines = []
    for row, table in tables:
        counts = {person: len(videos) for person, videos in people(row.results).items()}
        for person, found in table.items():
            cells = []
            for name in columns:
                value, count = found.get(name, (None, 0))
                partly = value is not None and count < counts[person]
                cells.append(show(value) + (f" ({count})" if partly else ""))
            lines.append([row.title, person, str(counts[person]), *cells])
    return markdown(["videos driven by", "people", "n", *columns], lines)


def everything(rows: Sequence[Scored]) -> list[str]:
    """Write a row per set with mean and 95 % interval of each metric, then the distances of whole sets."""
    found = [(row, summaries(row.results)) for row in rows]
    columns = list(dict.fromkeys(name for _, one in found for name in one))
    lines = markdown(
        ["videos driven by", *columns],
        ([row.title, *(_interval(one.get(key)) for key in columns)] for row, one in found),
    )
    distances = sorted({key for row in rows for key in row.results.sets})
    if distances:
        lines += markdown(
            ["all videos of a set", *distances],
            ([row.title, *(show(row.results.sets.get(key)) for key in distances)] for row in rows),
        )
    return lines


def page(rows: Sequence[Scored]) -> str:
    """Write all tables of a benchmark, as Markdown."""
    return "\n".join(
        [
            *("# Benchmark", "", "## Table 1, as the paper has it", ""),
            *("Means over videos; in brackets 95 % bootstrap intervals. " + COMPARABLE, ""),
            *table_1(rows),
            *("## Each person", "", "Medians over n videos.", ""),
            *by_person(rows),
            *("## Every metric", "", "Means over videos; in brackets 95 % bootstrap intervals.", ""),
            *everything(rows),
        ]
    )
