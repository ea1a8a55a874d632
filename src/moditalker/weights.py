"""Named third-party weights that come with the package: where they are from, their licence, their SHA-256.

Nothing is ever fetched. A file that differs from its name's checksum is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from moditalker.errors import UserError

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Weights:
    """One file of ``assets/``."""

    file: str
    sha256: str
    source: str
    licence: str


MEDIAPIPE = "MediaPipe 0.10.21 (Google), converted by tools/convert_face_networks.py"

NAMED: dict[str, Weights] = {
    "whisper-tiny.en": Weights(
        "whisper_tiny_en.safetensors",
        "b344d6a1899348e1d2b8ff97b7e2f9a10b88f3aa331ea563c020a883910f121c",
        "Whisper tiny.en (OpenAI), the encoder's first layers, converted by tools/convert_whisper.py",
        "MIT",
    ),
    "face-detector": Weights(
        "face_detector.safetensors",
        "8b1d952ddde7d68154e020fbf098d559f050d8ab4b649548125e26543654e012",
        MEDIAPIPE,
        "Apache-2.0",
    ),
    "face-detector-far": Weights(
        "face_detector_far.safetensors",
        "11eb2e3571d95a93d60077e44e93a080749036813c0e6299d24861a122bc33fa",
        MEDIAPIPE,
        "Apache-2.0",
    ),
    "face-mesh": Weights(
        "face_mesh.safetensors",
        "7f1f5141121f94f595a1623b1b250dde9ee3e02eea75e627f937a8be553c1735",
        MEDIAPIPE,
        "Apache-2.0",
    ),
}


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes.

    Raises:
        UserError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read; install moditalker again") from error
    return digest.hexdigest()


@cache
def find(name: str) -> Path:
    """The file of the named weights, once its checksum has been found right.

    Raises:
        UserError: no such name; the file is missing or differs from its checksum.
    """
    if name not in NAMED:
        raise UserError(f"weights {name!r} are not known; there are {', '.join(NAMED)}")
    path = ASSETS / NAMED[name].file
    if sha256(path) != NAMED[name].sha256:
        raise UserError(f"{path}: differs from its checksum; install moditalker again")
    return path
