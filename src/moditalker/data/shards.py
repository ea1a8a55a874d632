"""Datasets on disk: tar files in WebDataset's form, and which video belongs to which part of a dataset.

A sample is a run of tar members that share their name up to the first dot: KEY.json, which describes it, and
KEY.FIELD.npy, its arrays. Shards appear whole or not at all, and the same samples give the same bytes. They
are memory-mapped: only the parts in use are read, so a dataset may be larger than memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tarfile
import tokenize
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from moditalker.errors import UserError
from moditalker.jobs.files import appearing
from moditalker.weights.named import sha256

Array = NDArray[Any]

MAX_JSON = 1 << 20  # bytes that describe a sample
HEADER = 4096  # bytes that an array's header may take


# ------------------------------------------------------------------------------------------------- writing


@contextmanager
def shard_writer(path: Path) -> Iterator[tarfile.TarFile]:
    """A shard to add samples to; the file appears only if the block succeeds."""
    with appearing(path) as file, tarfile.open(fileobj=file, mode="w") as shard:
        yield shard


def add_sample(
    shard: tarfile.TarFile, key: str, about: Mapping[str, Any], fields: Mapping[str, Array]
) -> None:
    """Append a sample.

    key: without dots. about: JSON; "speaker" and "video" are what reading needs. fields: arrays of numbers.
    """
    blobs = {}
    for name, array in sorted(fields.items()):
        blob = io.BytesIO()
        np.lib.format.write_array(blob, np.ascontiguousarray(array), allow_pickle=False)
        blobs[f"{name}.npy"] = blob.getvalue()
    digest = hashlib.sha256()
    for name, content in blobs.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    described = json.dumps({**about, "sha256": digest.hexdigest()}, sort_keys=True).encode()
    for name, content in {"json": described, **blobs}.items():
        member = tarfile.TarInfo(f"{key}.{name}")
        member.size = len(content)
        shard.addfile(member, io.BytesIO(content))


def append(shard: tarfile.TarFile, other: Path) -> None:
    """Append all samples of another shard, unchanged."""
    with tarfile.open(other, "r:") as source:
        for member in source:
            shard.addfile(member, source.extractfile(member))


# ------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Shard:
    path: Path

    @cached_property
    def bytes(self) -> NDArray[np.uint8]:
        return np.asarray(np.memmap(self.path, np.uint8, mode="r"))


@dataclass(frozen=True)
class Sample:
    """One clip of one face: arrays by name, read when they are asked for; see docs/data.md for their list."""

    name: str
    about: Mapping[str, Any]  # the sample's JSON
    shard: _Shard = field(repr=False)
    places: Mapping[str, tuple[int, int]] = field(repr=False)  # field -> first byte, size

    @property
    def speaker(self) -> str:
        return str(self.about["speaker"])

    @property
    def video(self) -> str:
        """Name of the video that it was cut from, relative to the folder of videos."""
        return str(self.about["video"])

    @property
    def split(self) -> str:
        """The part of the dataset that it belongs to; "" where there are none."""
        return str(self.about.get("split", ""))

    @property
    def sha256(self) -> str:
        """Checksum of its arrays, as it was when they were written."""
        return str(self.about.get("sha256", ""))

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def __getitem__(self, name: str) -> Array:
        """An array, mapped and read-only.

        Raises:
            UserError: there is none of this name, or it is damaged.
        """
        if name not in self.places:
            raise UserError(
                f"{self.shard.path}: sample {self.name} has no {name}; prepare its video again with it"
            )
        start, size = self.places[name]
        content = self.shard.bytes[start : start + size]
        try:
            header = io.BytesIO(content[:HEADER].tobytes())
            version = np.lib.format.read_magic(header)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, columns_first, dtype = read[version](header)
            if dtype.hasobject or columns_first:
                raise ValueError(f"{dtype} in order {'F' if columns_first else 'C'}")
            values = content[header.tell() : header.tell() + math.prod(shape) * dtype.itemsize]
            return values.view(dtype).reshape(shape)
        except (ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError) as error:
            raise UserError(
                f"{self.shard.path}: {name} of sample {self.name} is no array of numbers ({error}); "
                "make the shard again with `moditalker prepare`"
            ) from error


def open_dataset(folder: str | Path) -> list[Sample]:
    """The samples of all shards (*.tar) of a folder, sorted by shard.

    Raises:
        UserError: no shards, or one that is damaged or holds something else.
    """
    shards = sorted(Path(folder).glob("*.tar"))
    if not shards and (clips := sorted(Path(folder).glob("*.safetensors"))):
        return [_clip_file(path) for path in clips]
    if not shards:
        raise UserError(f"{folder}: there is no dataset in it (*.tar); make one with `moditalker prepare`")
    return [sample for path in shards for sample in _samples(path)]


def _samples(path: Path) -> Iterator[Sample]:
    shard, size = _Shard(path), path.stat().st_size
    members: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as file:
            for member in file:
                folder, slash, base = member.name.rpartition("/")
                key, _, extension = base.partition(".")
                if not member.isreg() or not extension:
                    continue
                if member.offset_data + member.size > size:
                    raise ValueError("it is cut off")
                members.setdefault(folder + slash + key, {})[extension] = member.offset_data, member.size
        for key, places in members.items():
            start, length = places["json"]
            if length > MAX_JSON:
                raise ValueError(f"{key}.json has {length} bytes")
            about = json.loads(shard.bytes[start : start + length].tobytes())
            if not {"speaker", "video"} <= about.keys():
                raise ValueError(f"{key}.json names no speaker and video")
            fields = {name.removesuffix(".npy"): at for name, at in places.items() if name.endswith(".npy")}
            yield Sample(key, about, shard, fields)
    except (tarfile.TarError, OSError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: not a shard of prepared clips ({error}); make it again with `moditalker prepare`"
        ) from error


class _ClipFile(Sample):
    """A clip of its own file, as `python -m moditalker.prepare` made them."""

    def __getitem__(self, name: str) -> Array:
        with safe_open(self.shard.path, framework="numpy") as file:
            array: Array = file.get_tensor(name)
        return array


def _clip_file(path: Path) -> Sample:
    try:
        with safe_open(path, framework="numpy") as file:
            names = dict.fromkeys(file.keys(), (0, 0))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a prepared clip ({error}); make it again, or take it away") from error
    speaker, _, clip = path.stem.rpartition("_")
    about = {"speaker": speaker, "video": f"{speaker}/{clip}", "sha256": sha256(path)}
    return _ClipFile(path.stem, about, _Shard(path), names)


# -------------------------------------------------------------------------------------------------- splits
