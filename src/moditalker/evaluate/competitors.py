"""Other models in a benchmark: other weights, or other settings of the same weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moditalker.errors import UserError
from moditalker.jobs.files import write_whole
from moditalker.talker.talker import MoDiTalker
from moditalker.weights.files import describe, load_weights
from moditalker.weights.named import model_folder, sha256

ATOM, VIDEO = "atom.safetensors", "mtov.safetensors"
# A tensor that identifies a file, whatever its name.
PARTS = {"null_speech_vector": "motion", "plane_scale": "video"}
ROWS = ("landmarks", "self", "cross")  # rows of a competitor
SPOKEN = ("self", "cross")  # the same if its video stage is the benchmarked model's
MOTION = ("atom", "atom_diffusion", "speech")  # sections of settings without effect on the video stage
TAKEN = ("linear", "source")  # rows that every benchmark has


@dataclass(frozen=True)
class Competitor:
    """A model with rows of its own.

    name: as the tables show it. source: shipped weights by their name, a folder with AToM's weights, the
    video stage's or both, or one file of either; missing parts are the benchmarked model's.
    settings: "section.key=value" each, that override the trained ones.
    """

    name: str
    source: str
    settings: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ROWS

    @property
    def slug(self) -> str:
        """The name as part of a file's."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def read_competitors(texts: Iterable[str]) -> list[Competitor]:
    """Read competitors from texts "NAME=SOURCE" or "NAME=SOURCE,section.key=value,...".

    Raises:
        UserError: another form; a name without a letter or digit, with a "|", or of another row.
    """
    found: dict[str, Competitor] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        # A comma without a setting after it belongs to the path, or to a setting's list.
        source, *settings = re.split(r",\s*(?=\w+\.\w+=)", rest)
        one = Competitor(name.strip(), source.strip(), tuple(settings))
        if _speaks_only(one):
            one = replace(one, kinds=SPOKEN)
        if not one.source or not one.slug or "|" in one.name:
            raise UserError(
                f"--also {text}: NAME=WEIGHTS is expected, the name with letters or digits; settings follow "
                "after commas, as in --also 'previous clip=tiny,mtov.anchor=previous'"
            )
        if one.slug in (*TAKEN, *found):
            raise UserError(f"--also {text}: there is a row {one.slug!r} already; choose another name")
        found[one.slug] = one
    return list(found.values())


def _speaks_only(one: Competitor) -> bool:
    """Whether only its AToM can differ from the benchmarked model's."""
    path = Path(one.source)
    alone = path.suffix == ".safetensors" and path.name.startswith("atom")
    alone = alone or ((path / ATOM).is_file() and not (path / VIDEO).is_file())
    return alone and all(setting.split(".")[0] in MOTION for setting in one.settings)


def versions(preset: str) -> list[Competitor]:
    """Rows of the video stage before it composed, and of composition without a network.

    Raises:
        UserError: the weights have no settings for them, or do not compose.
    """
    config = describe(model_folder(preset) / VIDEO)["config"]
    if not config.get("compose", {}).get("enabled", False):
        raise UserError(
            f"the weights {preset!r} do not compose their frames (compose.enabled), so there is no first "
            "version and no composition alone beside them; leave --versions out"
        )
    kinds = ("landmarks", "self")
    return [
        Competitor("First version", preset, ("compose.enabled=false",), kinds),
        Competitor("Composition alone", preset, ("compose.inside=nothing",), kinds),
    ]


def weights_of(source: str, preset: str) -> dict[str, Any]:
    """Return the arguments of `MoDiTalker.from_pretrained` for a source; missing parts are the preset's.

    Raises:
        UserError: the file holds no weights of AToM or of the video stage.
    """
    path = Path(source)
    if path.is_file():
        state = load_weights(path)[0]
        part = next((part for tensor, part in PARTS.items() if tensor in state), None)
        if part is None:
            raise UserError(f"{path}: weights of another part; give those of atom or mtov, or a folder")
        return {"model": preset, part: path}
    files = {"motion": path / ATOM, "video": path / VIDEO}
    there = {part: file for part, file in files.items() if file.is_file()}
    return {"model": preset, **there} if len(there) == 1 else {"model": source}


def load(one: Competitor, preset: str) -> MoDiTalker:
    """Load the model of a row.

    Raises:
        UserError: as `MoDiTalker.from_pretrained`, with the row's name.
    """
    try:
        return MoDiTalker.from_pretrained(**weights_of(one.source, preset), overrides=one.settings)
    except UserError as error:
        raise UserError(f"{one.name}: {error}") from None


def keep_or_refuse(
    models: Sequence[Competitor], preset: str, out: Path, made: Mapping[str, float] | None = None
) -> None:
    """Note in the folder (models.json) the models of its videos, the preset's too, so that a later run does
    not mix them up.

    made: options of all videos, by their names.

    Raises:
        UserError: the folder has videos of a name with other weights, settings or options; weights do not
            exist.
    """
    path = out / "models.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    earlier: Any = known.pop("made", None)
    if made is not None:
        if earlier not in (None, dict(made)) and any((out / "videos").glob("*/*.mp4")):
            options = " ".join(f"--{name} {value:g}" for name, value in earlier.items())
            raise UserError(f"{out}: its videos were made with {options}; say so, or choose another --out")
        earlier = dict(made)
    named = {"": Competitor(f"preset {preset}", preset), **{one.slug: one for one in models}}
    for slug, one in named.items():
        arguments = weights_of(one.source, preset)
        folder = model_folder(arguments["model"])
        files = arguments.get("motion", folder / ATOM), arguments.get("video", folder / VIDEO)
        record = {
            "weights_sha256": [sha256(file) for file in files if file.is_file()],
            "settings": list(one.settings),
        }
        kinds = [f"{kind}-{slug}" if slug else kind for kind in ROWS]
        there = any(any((out / "videos" / kind).glob("*.mp4")) for kind in kinds)
        if there and known.get(slug, record) != record:
            raise UserError(
                f"{out}: its videos of {one.name!r} are of other weights or settings; choose another --out"
                + (", or another name" if slug else "")
            )
        known[slug] = record
    if earlier is not None:
        known["made"] = earlier
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(known, indent=1) + "\n").encode())
