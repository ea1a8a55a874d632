"""Shards: what was written is read, by WebDataset's own reader too, and broken ones are refused."""

from __future__ import annotations

import gc
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from moditalker.data.shards import add_sample, append, open_dataset, shard_writer
from moditalker.data.split import SPLITS, Split
from moditalker.errors import UserError

ABOUT = {"speaker": "s1", "video": "s1/a.mp4"}


def fields(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "crops": rng.integers(0, 256, size=(5, 8, 8, 3)).astype(np.uint8),
        "points": rng.normal(size=(5, 68, 3)).astype(np.float32),
        "speech": rng.normal(size=(10, 7)).astype(np.float16)[:, ::2],
        "nothing": np.zeros((0, 4), np.float32),
    }


def write(path: Path, keys: tuple[str, ...] = ("a", "b")) -> Path:
    with shard_writer(path) as shard:
        for number, key in enumerate(keys):
            add_sample(shard, key, {**ABOUT, "split": "val"}, fields(number))
    return path


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "data-000000.tar")
    samples = open_dataset(tmp_path)
    assert [sample.name for sample in samples] == ["a", "b"]
    for number, sample in enumerate(samples):
        assert (sample.speaker, sample.video, sample.split) == ("s1", "s1/a.mp4", "val")
        for name, array in fields(number).items():
            assert name in sample
            np.testing.assert_array_equal(sample[name], array)
            assert sample[name].dtype == array.dtype
    assert "audio" not in samples[0]
    with pytest.raises(UserError, match="sample a has no audio"):
        samples[0]["audio"]
    with pytest.raises(ValueError, match="read-only"):
        samples[0]["crops"][0] = 0


def test_the_same_samples_give_the_same_bytes_also_joined(tmp_path):
    one = write(tmp_path / "one.tar").read_bytes()
    assert write(tmp_path / "two.tar").read_bytes() == one
    write(tmp_path / "a.tar", ("a",))
    with shard_writer(tmp_path / "b.tar") as shard:
        add_sample(shard, "b", {**ABOUT, "split": "val"}, fields(1))
    with shard_writer(tmp_path / "joined.tar") as shard:
        append(shard, tmp_path / "a.tar")
        append(shard, tmp_path / "b.tar")
    assert (tmp_path / "joined.tar").read_bytes() == one


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves the file open
def test_webdataset_reads_them(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    path = write(tmp_path / "data-000000.tar")
    read = list(webdataset.WebDataset(str(path), shardshuffle=False).decode())
    gc.collect()
    assert [sample["__key__"] for sample in read] == ["a", "b"]
    for number, sample in enumerate(read):
        assert sample["json"]["speaker"] == "s1"
        for name, array in fields(number).items():
            np.testing.assert_array_equal(sample[f"{name}.npy"], array)


def test_a_shard_that_fails_half_way_does_not_appear(tmp_path):
    with pytest.raises(ValueError, match="Object arrays"), shard_writer(tmp_path / "data.tar") as shard:
        [add_sample(shard, "a", ABOUT, {"x": array}) for array in (np.zeros(3), np.array([{}]))]
    assert not list(tmp_path.iterdir())


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def npy(array: np.ndarray) -> bytes:
    blob = io.BytesIO()
    np.save(blob, array, allow_pickle=True)
    return blob.getvalue()


def test_shards_of_others_are_read(tmp_path):
    """Written by Python's tarfile and numpy alone, in folders and with unknown members."""
    array = np.arange(6.0).reshape(2, 3)
    about = json.dumps(ABOUT).encode()
    tar(tmp_path / "x.tar", {"./f.d/k.json": about, "./f.d/k.crops.npy": npy(array), "./f.d/k.cls": b"7"})
    (sample,) = open_dataset(tmp_path)
    assert sample.name == "./f.d/k"
    np.testing.assert_array_equal(sample["crops"], array)


def test_hostile_shards(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(UserError, match="moditalker prepare"):
        open_dataset(folder)
    path = write(folder / "data.tar")
    whole = path.read_bytes()
    about = json.dumps(ABOUT).encode()
    for content in (b"", b"hello" * 1000, whole[: len(whole) // 2], whole[:700]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"data\.tar"):
            [sample["crops"] for sample in open_dataset(folder)] or open_dataset(folder)[0]
    for bad in (b"{", b"[]", b"null", b"{}", b"[" * 100_000, b" " * (2 << 20), b"\xff"):
        tar(path, {"a.json": bad})
        with pytest.raises(UserError, match="not a shard"):
            open_dataset(folder)
    tar(path, {"a.crops.npy": npy(np.zeros(3))})
    with pytest.raises(UserError, match="not a shard"):
        open_dataset(folder)
    lying = npy(np.zeros(3)).replace(b"(3,)", b"(9,)")
    code, columns = npy(np.array([{}, 1], object)), npy(np.zeros((3, 4)).T)
    unclosed, zeros = (b"\x93NUMPY\x01\x00\x10\x00" + text.ljust(16, b"\0") for text in (b"{'descr': (", b""))
    for bad in (code, lying, columns, b"x", b"\x93NUMPY\x09\x00", unclosed, zeros):
        tar(path, {"../../a.json": about, "../../a.crops.npy": bad})
        with pytest.raises(UserError, match="no array of numbers"):
            open_dataset(folder)[0]["crops"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_clips_in_files_of_their_own_may_be_damaged(tmp_path):
    (tmp_path / "s1_a.safetensors").write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"s1_a\.safetensors: not a prepared clip"):
        open_dataset(tmp_path)


def test_splits(tmp_path):
    path = tmp_path / "split.json"
    path.write_text('{"train": ["s1/a.mpg", "b"], "val": ["s2/a.mp4"], "note": "a remark"}')
    split = Split(path)
    videos = {"s1/a.mp4": "train", "deep/s1/a.mkv": "train", "s2/a.mpg": "val", "s3/b.mp4": "train"}
    assert {video: split.part(video) for video in videos} == videos
    assert split.part("a.mpg") == split.part("xs1/a.mpg") == split.part("s3/c.mp4") == ""
    path.write_text('{"test": ["b.mp4"], "train": "rest"}')
    assert [Split(path).part(video) for video in ("x/b.mp4", "b.mkv", "c.mp4")] == ["test", "test", "train"]
    path.write_text('{"val": ["s3/", "deep/s4/"], "test": ["s3/b.mp4"], "train": "rest"}')
    places = ("s3/a.mp4", "x/s3/y/a.mp4", "s3/b.mp4", "s4/a.mp4", "deep/s4/a.mp4", "s3.mp4")
    assert [Split(path).part(video) for video in places] == ["val", "val", "test", "train", "val", "train"]
    for bad in ("", "[]", '{"train": "all"}', '{"../x": []}', '{"train": [1]}', '{"train": {"a": 1}}'):
        path.write_text(bad)
        with pytest.raises(UserError, match="not a split"):
            Split(path)
    with pytest.raises(UserError, match="hdtf"):
        Split(tmp_path / "none.json")


def test_entries_that_name_no_video(tmp_path):
    path = tmp_path / "split.json"
    path.write_text('{"val": ["s1/", "s2/", "s3/a.mp4", "s4/b.mp4"], "train": "rest"}')
    videos = ["s1/a.mp4", "s3/a.mkv", "s3/c.mp4"]
    split = Split(path)
    assert split.parts == {"train", "val"}
    assert split.unmatched(videos) == ["s2/", "s4/b"]
    path.write_text('{"val": ["s3"], "train": "rest"}')
    with pytest.raises(UserError, match='"s3" is a folder of videos; "s3/" means all in it'):
        Split(path).check(videos)


def test_hdtf_tests_on_98_videos():
    listed = json.loads((SPLITS / "hdtf.json").read_text())["test"]
    assert len(set(listed)) == 98
    split = Split("hdtf")
    assert all(split.part(name) == "test" for name in listed)
    assert split.part("RD_Radio1_001.mp4") == split.part("WDA_NancyPelosi0_000.mp4") == "train"
