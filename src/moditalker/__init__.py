"""Speech and a face in, a lip-synced talking video out.

    from moditalker import MoDiTalker
    MoDiTalker.from_pretrained("tiny").generate(face="person.mp4", audio="speech.wav", seed=0).save("out.mp4")

Importing the package reads no file and loads no framework: names are resolved when they are first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from moditalker import moved

if TYPE_CHECKING:
    from moditalker.errors import UserError as UserError
    from moditalker.motion.edit import Style as Style
    from moditalker.provenance import Provenance as Provenance
    from moditalker.talker.options import Options as Options
    from moditalker.talker.steps import Motion as Motion
    from moditalker.talker.talker import MoDiTalker as MoDiTalker

__version__ = "0.1.0"
HOMES = {
    "MoDiTalker": "talker.talker",
    "Motion": "talker.steps",
    "Options": "talker.options",
    "Provenance": "provenance",
    "Style": "motion.edit",
    "UserError": "errors",
}
__all__ = ["MoDiTalker", "Motion", "Options", "Provenance", "Style", "UserError", "__version__"]

sys.meta_path.append(moved.Finder())


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(f"moditalker.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
