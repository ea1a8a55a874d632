"""Commands and options under the names of version 0.1: they work for one more release, with a warning."""

from __future__ import annotations

import sys
from collections.abc import Sequence

COMMANDS = {
    "ab": ("evaluate", "study"),
    "bench": ("evaluate", "speed"),
    "benchmark": ("evaluate", "benchmark"),
    "convert": ("weights", "convert"),
    "demo": ("generate",),
    "render": ("generate",),
    "web": ("serve",),
}
MEASURES = ("pairs", "benchmark", "speed", "study")
CONFIGURED = ("prepare", "train", "convert", "config")  # where --preset names a configuration


def present(words: Sequence[str]) -> list[str]:
    """A call's words with present names; each former name gets a warning on standard error."""
    if not words:
        return []
    first, *rest = words
    now = [*COMMANDS.get(first, (first,))]
    if first == "evaluate" and rest and rest[0] not in (*MEASURES, "--help", "-h"):
        now.append("pairs")
    if now != [first]:
        print(f"note: moditalker {first} is now moditalker {' '.join(now)}", file=sys.stderr)
    if first in CONFIGURED or rest[:1] == ["convert"]:
        return [*now, *rest]
    for number, word in enumerate(rest):
        option, equals, value = word.partition("=")
        if option == "--preset":
            rest[number] = f"--model{equals}{value}"
            print("note: --preset is now --model, which names weights", file=sys.stderr)
    return [*now, *rest]
