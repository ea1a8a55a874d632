"""Write the reference of the public names out of their docstrings (docs/api.md).

python tools/write_api.py [OUT]
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import moditalker

OUT = Path(__file__).parents[1] / "docs" / "api.md"
MEMBERS = {  # of each class, those that are for users
    "MoDiTalker": ["from_pretrained", "generate", "stream", "speech", "face", "motion", "track", "video"],
    "Motion": ["array", "edited", "styled", "track"],
    "Options": [],
    "Provenance": [],
    "Style": [],
    "UserError": [],
}


def described(thing: object) -> list[str]:
    """A docstring as a block of text."""
    return ["```text", inspect.getdoc(thing) or "", "```", ""]


def signature(thing: object) -> str:
    """Names and defaults of what a function takes, without types: these are in the source."""
    found = inspect.signature(thing)  # type: ignore[arg-type]
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in found.parameters.items()
        if name not in ("self", "cls", "former")
    ]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def lines() -> Iterator[str]:
    yield from ["# Python reference", ""]
    yield from ["Written by `python tools/write_api.py` out of the docstrings: change them there.", ""]
    for name, members in MEMBERS.items():
        thing = getattr(moditalker, name)
        yield from [f"## {name}", "", *described(thing)]
        for member in members:
            method = getattr(thing, member)
            yield from [f"### {name}.{member}", "", "```text", f"{member}{signature(method)}", "```", ""]
            yield from described(method)
    yield from ["## Video", "", *described(_video())]
    yield from ["### Video.save", "", *described(_video().save)]


def _video() -> type:
    from moditalker.talker.video import Video

    return Video


def text() -> str:
    """The page."""
    return "\n".join(lines()).rstrip() + "\n"


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.write_text(text(), encoding="utf-8")
    print(out)
