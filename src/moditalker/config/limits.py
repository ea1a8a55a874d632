"""Limits of whole numbers from users, whether by command line, Python or a file."""

from __future__ import annotations

from operator import index
from typing import Any

from moditalker.errors import UserError

RATE = 25.0  # Hz of motion, training clips, and videos made from a picture [paper]
BLINKS = 15.0  # of the eyes of a picture a minute, as people do at rest
BOUNDS = {"seed": (0, 2**63 - 1), "steps": (1, 1000)}


def whole(name: str, value: Any) -> int:
    """Check a seed or a number of steps; return it as a plain int.

    Raises:
        UserError: it is not a whole number, or out of its bounds.
    """
    least, most = BOUNDS[name]
    try:
        number = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = -1
    if not least <= number <= most:
        raise UserError(f"{name} is {value!r:.40}; it must be a whole number from {least} to {most}")
    return number


def sampling(seed: Any, steps: Any) -> tuple[int, int | None]:
    """Check a seed, and steps unless None. Raises UserError."""
    return whole("seed", seed), None if steps is None else whole("steps", steps)
