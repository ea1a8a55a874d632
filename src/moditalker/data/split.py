"""Which video belongs to which part of a dataset: a split file, or one that ships."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

from numpy.typing import NDArray

from moditalker.errors import UserError

Array = NDArray[Any]

SPLITS = Path(__file__).parent / "splits"


class Split:
    """Which video belongs to which part ("train", "val", ...).

    JSON: parts, each a list of entries. An entry names a video, as its path below the folder of videos or the
    last parts of it, with any ending, or all videos of a folder ("s1/"). One part may be "rest" instead of a
    list and takes all others; without it, videos that are not listed belong to no part. A "note" is a remark.
    ``source``: a file, or the name of a split that ships with the package.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = source
        shipped = SPLITS / f"{source}.json"
        path = shipped if shipped.is_file() and not Path(source).exists() else Path(source)
        self.rest = ""
        self.videos: dict[tuple[str, ...], str] = {}
        self.folders: dict[tuple[str, ...], str] = {}
        try:
            for part, listed in json.loads(path.read_text(encoding="utf-8")).items():
                if part == "note":
                    continue
                if not part.isidentifier():
                    raise ValueError(f"{part!r} is no name of a part")
                if listed == "rest":
                    self.rest = part
                    continue
                if not isinstance(listed, list):
                    raise ValueError(f'{part} is neither a list nor "rest"')
                for entry in listed:
                    if entry.endswith("/"):
                        self.folders[PurePath(entry).parts] = part
                    else:
                        self.videos[PurePath(entry).with_suffix("").parts] = part
        except (OSError, ValueError, AttributeError, TypeError) as error:
            known = ", ".join(sorted(path.stem for path in SPLITS.glob("*.json")))
            raise UserError(
                f"{source}: not a split ({error}); give JSON with lists of videos, such as "
                f'{{"train": [...], "val": [...]}}, or one that is known: {known}'
            ) from error

    @property
    def parts(self) -> set[str]:
        """The parts that it names."""
        return {*self.videos.values(), *self.folders.values(), self.rest} - {""}

    def part(self, video: str) -> str:
        """The part of a video, by its path below the folder of videos; "" for none."""
        for name in _endings(video):
            if name in self.videos:
                return self.videos[name]
        return next((self.folders[name] for name in _folders(video) if name in self.folders), self.rest)

    def unmatched(self, videos: Iterable[str]) -> list[str]:
        """The entries that name none of these videos."""
        names, folders = _named(videos)
        missing = ["/".join(entry) for entry in self.videos.keys() - names]
        return sorted(missing + ["/".join(entry) + "/" for entry in self.folders.keys() - folders])

    def check(self, videos: Iterable[str]) -> None:
        """Raise UserError where an entry names a folder of these videos, without a slash behind it."""
        names, folders = _named(videos)
        for entry in sorted("/".join(entry) for entry in (self.videos.keys() - names) & folders):
            raise UserError(f'{self.source}: "{entry}" is a folder of videos; "{entry}/" means all in it')


def _named(videos: Iterable[str]) -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """All that may name one of these videos, and all that may name a folder of them."""
    names, folders = set[tuple[str, ...]](), set[tuple[str, ...]]()
    for video in videos:
        names.update(_endings(video))
        folders.update(_folders(video))
    return names, folders


def _endings(video: str) -> Iterator[tuple[str, ...]]:
    """What may name a video: its path and the last parts of it, without the name's ending."""
    names = PurePath(video).with_suffix("").parts
    return (names[start:] for start in range(len(names)))


def _folders(video: str) -> Iterator[tuple[str, ...]]:
    """What may name a folder that a video lies in."""
    names = PurePath(video).parts[:-1]
    starts = range(len(names))
    return (names[start:stop] for start in starts for stop in range(start + 1, len(names) + 1))
