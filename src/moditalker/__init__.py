"""Speech and a face in, a lip-synced talking video out.

    from moditalker import MoDiTalker
    MoDiTalker.from_pretrained("tiny").generate(face="person.mp4", audio="speech.wav", seed=0).save("out.mp4")

Importing the package reads no file and loads no framework: names are resolved when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moditalker.errors import UserError as UserError
    from moditalker.pipeline import MoDiTalker as MoDiTalker

__version__ = "0.1.0"
__all__ = ["MoDiTalker", "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "MoDiTalker":
        from moditalker.pipeline import MoDiTalker

        return MoDiTalker
    if name == "UserError":
        from moditalker.errors import UserError

        return UserError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
