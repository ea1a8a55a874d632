"""Draw which room of the package knows which, from the imports (docs/images/rooms.svg).

    python tools/draw_rooms.py [OUT]

A room is a folder or file right below src/moditalker. An arrow leads from a room to each room that it
imports, but for those that it also reaches by way of another one.
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "moditalker"
OUT = ROOT / "docs" / "images" / "rooms.svg"
WHAT = {
    "cli": "commands",
    "serve": "the service, the page",
    "training": "the loop, tasks",
    "evaluate": "judging, benchmark, study",
    "talker": "the five steps",
    "data": "datasets",
    "provenance": "manifest, mark",
    "metrics": "arrays in, number out",
    "motion": "AToM: speech to landmarks",
    "video": "MToV, composition",
    "features": "speech, face, portrait",
    "media": "files to arrays and back",
    "geometry": "the 68 points",
    "diffusion": "process, layers",
    "weights": "files, names",
    "config": "schema, presets",
    "jobs": "streams, workers, files",
    "errors": "UserError",
}
PATH = ["media", "features", "motion", "video", "media"]  # of a video that is made
WIDTH, HEIGHT, ACROSS, DOWN = 172, 44, 188, 92


def imported(package: Path = PACKAGE) -> dict[str, set[str]]:
    """For each room those that it imports."""
    rooms: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__", "moved"):
            continue
        known = rooms.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
                if node.module == "moditalker":
                    names = [f"moditalker.{alias.name}" for alias in node.names]
                known |= {name.split(".")[1] for name in names if name.startswith("moditalker.")}
    return {
        room: {other for other in known if other in rooms and other != room} for room, known in rooms.items()
    }


def levels(rooms: dict[str, set[str]]) -> dict[str, int]:
    """How many rooms lie one on the other below each."""
    found: dict[str, int] = {}

    def level(room: str) -> int:
        if room not in found:
            found[room] = 1 + max(map(level, rooms[room]), default=-1)
        return found[room]

    for room in rooms:
        level(room)
    return found


def direct(rooms: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the rooms that are also reached by way of another one."""

    def below(room: str) -> set[str]:
        return rooms[room].union(*map(below, rooms[room]))

    return {room: known - set().union(*map(below, known)) for room, known in rooms.items()}


def drawn(rooms: dict[str, set[str]]) -> str:
    """The picture, SVG."""
    height = levels(rooms)
    rows: dict[int, list[str]] = {}
    for room in sorted(rooms, key=lambda room: list(WHAT).index(room) if room in WHAT else len(WHAT)):
        rows.setdefault(height[room], []).append(room)
    most, top = max(map(len, rows.values())), max(rows)
    size = most * ACROSS + 16, (top + 1) * DOWN + 12
    place = {
        room: (8 + ACROSS * (number + (most - len(row)) / 2), 8 + DOWN * (top - level))
        for level, row in rows.items()
        for number, room in enumerate(row)
    }
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"',
        f'  viewBox="0 0 {size[0]} {size[1]}">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"',
        '  orient="auto"><path d="M0 0 8 4 0 8z" fill="#889"/></marker></defs>',
        f'<rect width="{size[0]}" height="{size[1]}" fill="#fff"/>',
    ]
    for room, known in sorted(direct(rooms).items()):
        x, y = place[room]
        for other in sorted(known):
            u, v = place[other]
            lines.append(
                f'<path d="M{x + WIDTH / 2:g} {y + HEIGHT:g} L{u + WIDTH / 2:g} {v:g}" stroke="#889" '
                'fill="none" marker-end="url(#tip)"/>'
            )
    for room, (x, y) in sorted(place.items()):
        fill = "#dbeafe" if room in PATH else "#f3f4f6"
        middle = f'x="{x + WIDTH / 2:g}" text-anchor="middle"'
        lines += [
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"',
            f'  fill="{fill}" stroke="#667"/>',
            f'<text {middle} y="{y + 18:g}" font-size="14" font-weight="bold">{escape(room)}</text>',
            f'<text {middle} y="{y + 35:g}" font-size="11">{escape(WHAT.get(room, ""))}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.write_text(drawn(imported()), encoding="utf-8")
    print(out)
