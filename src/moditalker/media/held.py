"""Temporary files for faces and sounds in memory."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from moditalker.errors import UserError
from moditalker.media import tts
from moditalker.media.arriving import ArrivingSound
from moditalker.media.files import Samples
from moditalker.media.mixing import Placed, mixed, write_mix
from moditalker.media.sound import SAMPLE_RATE, AudioReader, write_wav
from moditalker.media.sources import exact

Face = str | Path | NDArray[np.uint8] | Image.Image | IO[bytes]
Sound = str | Path | ArrayLike | Iterable[ArrayLike] | IO[bytes]


@dataclass(frozen=True)
class Held:
    """A file; a temporary one is deleted with this object."""

    path: Path
    folder: Path | None = None


def _new(name: str) -> Held:
    folder = Path(tempfile.mkdtemp(prefix="moditalker-"))
    held = Held(folder / name, folder)
    weakref.finalize(held, shutil.rmtree, folder, ignore_errors=True)
    return held


def _copied(given: Any, name: str) -> Held:
    """A copy of an open file from its position on."""
    held = _new(Path(str(getattr(given, "name", ""))).name or name)
    content = given.read()
    if not isinstance(content, bytes):
        raise UserError(f"{held.path.name}: is open as text; open it as bytes, mode 'rb'")
    held.path.write_bytes(content)
    return held


def hold_face(face: Face) -> Held:
    """A file of a face: a path, a picture (H, W, 3) uint8 RGB or of PIL, or a file that is open as bytes.

    Raises:
        UserError: an array that is no picture, or a file that is open as text.
    """
    if isinstance(face, str | Path):
        return Held(Path(face))
    if hasattr(face, "read") and not isinstance(face, Image.Image):
        return _copied(face, "face")
    if not isinstance(face, Image.Image):
        pixels = np.asarray(face)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise UserError(f"a face of {pixels.dtype}, {pixels.shape}: uint8 of shape (H, W, 3) is expected")
        face = Image.fromarray(pixels)
    held = _new("face.png")
    face.save(held.path)
    return held


def hold_sound(sound: Sound, rate: int = SAMPLE_RATE) -> Held:
    """A file of a sound: a path, floats in [-1, 1], mono, at once (n,) or in chunks, or a file that is open
    as bytes. rate: samples a second of the floats.

    Raises:
        UserError: an array that is no sound, or too short; a file that is open as text.
    """
    if isinstance(sound, str | Path):
        return Held(Path(sound))
    if hasattr(sound, "read"):
        return _copied(sound, "audio")
    chunks = [sound] if isinstance(sound, np.ndarray) else sound
    held = _new("audio.wav")
    write_wav(held.path, np.concatenate(list(ArrivingSound(chunks, rate))))  # type: ignore[arg-type]
    return held


def hold_text(text: str, voice: str = "", lang: str = "", seed: int = 0) -> Held:
    """A file of a text, spoken as by `tts.speak`. Raises UserError."""
    held = _new("speech.wav")
    tts.speak(text, held.path, voice, lang, seed)
    return held


def hold_later(path: Path, track: int | None, offset: float) -> Held:
    """A file of a sound that begins `offset` seconds later, after silence; negative: without its first ones.

    Raises:
        UserError: nothing is left of it.
    """
    sound, moved = AudioReader(path, track), exact(offset)
    if moved + sound.seconds <= 0:
        raise UserError(f"offset {offset:g} s: {path} lasts {float(sound.seconds):.2f} s; take a smaller one")
    held = _new("speech.wav")
    placed = Placed(sound, max(Fraction(0), moved), max(Fraction(0), -moved))
    write_mix(held.path, mixed(moved + sound.seconds, [placed], None, (), 1.0))
    return held


def hold_mix(blocks: Iterable[Samples]) -> Held:
    """A file of a mix."""
    held = _new("mix.wav")
    write_mix(held.path, blocks)
    return held
